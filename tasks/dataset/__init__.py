"""The data set: from bytes to images."""
