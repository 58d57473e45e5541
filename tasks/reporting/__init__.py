"""The HTML report: template, charts, diagnosis."""
