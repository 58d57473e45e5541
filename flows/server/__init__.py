"""Start, find and check the Prefect server of a command."""
