"""The networks. They need PyTorch and the standard library only, and know no file, Prefect, DVC or W&B."""
