"""Networks and toy mathematics, on PyTorch and the standard library alone: no file, Prefect, DVC or W&B."""
