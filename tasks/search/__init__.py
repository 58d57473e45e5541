"""Hyperparameter search: what is searched, and which trials come next."""
