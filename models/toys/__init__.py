"""The mathematics of the talk's examples, a file a toy: plain functions."""
