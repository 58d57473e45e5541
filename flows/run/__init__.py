"""A Prefect run: the workspace's lock, the chain of tasks, logs, artifacts, lineage."""
