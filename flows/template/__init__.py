"""Make a project of one's own from this project's files, which are its template, and upgrade it."""
