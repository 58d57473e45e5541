"""Prefect's file about a run that a worker starts: it holds the environment, with the secrets in it."""

import tempfile
from pathlib import Path

from tasks.workspace.files import read_json, write_json

PATTERN = "prefect-workspace-attempt-*/workspace.json"


def clear_manifest_environment() -> None:
    """Take the environment out of the file for the run in this folder.

    Prefect deletes the file at the run's end, but one that is killed leaves it. Only hooks of flows for a
    crash or a cancellation are started with that environment, and no flow here has one.
    """
    for file in Path(tempfile.gettempdir()).glob(PATTERN):
        try:
            manifest = read_json(file)
        except (OSError, ValueError):  # another run's, being deleted or written
            continue
        if Path(manifest.get("working_directory", "")).resolve() == Path.cwd():
            write_json(file, manifest | {"environment": {}, "hook_command": None})
