"""What a Prefect run needs: the workspace's lock, the chain of tasks, logs, artifacts, lineage."""
