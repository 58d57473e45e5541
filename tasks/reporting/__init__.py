"""Make the HTML report: read the results, judge them, draw charts, and render the page."""
