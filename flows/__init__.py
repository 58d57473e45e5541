"""The Prefect flows and the command line. No other package of this project knows Prefect and DVC."""

import tasks  # noqa: F401 - its settings, before any module here imports PyTorch
