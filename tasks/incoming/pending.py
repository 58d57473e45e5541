"""List the new images in `incoming/` that wait to be ingested. To ask for them needs no image library."""

import os
from pathlib import Path

from tasks.workspace.errors import InputError

ACCEPTED_DIR, REJECTED_DIR = "accepted", "rejected"
INTAKES = "drift.jsonl"
"""file name, beside the accepted images, of the results of the drift tests of ingested images"""


def list_pending(incoming: Path) -> list[Path]:
    """List the files that have not been processed yet, sorted. Hidden files are ignored."""
    if not incoming.exists():
        return []
    if not incoming.is_dir():
        raise InputError(f"{incoming} is not a directory; new images go into {incoming}/CLASS/")
    pending = []
    for folder, folders, files in os.walk(incoming):
        is_top = Path(folder) == incoming
        folders[:] = [
            d for d in folders if not d.startswith(".") and not (is_top and d in {ACCEPTED_DIR, REJECTED_DIR})
        ]
        links = [d for d in folders if Path(folder, d).is_symlink()]  # os.walk does not follow links.
        pending += [Path(folder, name) for name in [*files, *links] if not name.startswith(".")]
    return sorted(pending)
