"""The networks need PyTorch and the standard library only; they know no file, Prefect, DVC or W&B."""
