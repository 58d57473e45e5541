"""Between Prefect, DVC and the stages: what flows are built from."""
