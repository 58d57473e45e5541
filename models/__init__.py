"""Networks and toy mathematics, on PyTorch and the standard library alone: no file, no Prefect, no DVC, no W&B."""
