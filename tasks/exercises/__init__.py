"""The exercises of the course check themselves: each has a reference, and a hint for each typical mistake."""
