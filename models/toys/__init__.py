"""The mathematics of the toys, one per file: plain functions."""
