"""The Prefect flows and the command line: the only place that knows Prefect and DVC."""

import tasks  # noqa: F401 - its settings, before any module here imports PyTorch
