"""Networks, on PyTorch and the standard library only: no file, Prefect, DVC or W&B."""
