"""Modules in this package obtain, verify and decode the data set."""
