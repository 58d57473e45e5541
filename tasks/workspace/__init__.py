"""Stages share this package: file formats, atomic writes, hashes, errors, PyTorch's settings."""
