"""Show decisions to a person: a page for each comparison, and the page of all decisions."""
