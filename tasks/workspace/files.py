"""Files appear under their names whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.workspace.errors import RunError


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """A name beside `file` to write to; it takes `file`'s place when all is written, or is removed."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temp_path = file.with_name(f".{file.name}.{os.getpid()}.partial")
        try:
            yield temp_path
            with temp_path.open("rb") as written:
                os.fsync(written.fileno())
            temp_path.replace(file)
        finally:
            temp_path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {file}: {error.strerror or error}") from error
