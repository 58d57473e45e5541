"""The stage `download` puts a data set into a folder, which appears only when it is complete and verified.

These sources are tried in order: the folder itself; a variable such as `CIFAR10_URL`; the sources in
`params.yaml`. An interrupted download is kept beside the data, and the next run resumes it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tasks.dataset.archive import ArchiveError, DownloadError, DownloadLimits, ResumableDownload
from tasks.dataset.base import ChecksumError
from tasks.dataset.catalog import open_dataset
from tasks.workspace.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.params import DownloadConfig

STAGING_DIR = ".cifar10-download"  # folder beside the data, for incomplete downloads


class DataUnavailableError(RunError):
    """No source provides the data now; a later attempt may succeed."""


def download(data: Path, dataset: str, config: DownloadConfig) -> dict[str, Any]:
    """Put the data set into the folder `data`, and verify every file against its checksum.

    Returns the `source`, None if the data was there already. The user's own images are not downloaded:
    `InputError` if there are none. A data set that is there but differs from the published one is never
    changed: `ChecksumError`. `DataUnavailableError` if no source provides the data.
    """
    kind = open_dataset(dataset)
    missing = kind.find_missing(data)
    if missing is None:
        kind.verify(data)
        return {"source": None}
    configured = getattr(config, missing.sources_key) if missing.sources_key else missing.sources
    sources = [*filter(None, [os.environ.get(missing.url_variable)]), *configured]
    reasons = []
    for source in sources:
        try:
            with _staging_dir(data) as staging:
                archive = _fetch(source, staging, config, missing.num_bytes)
                try:
                    kind.unpack(archive, staging / "extracted")
                except (ArchiveError, ChecksumError):
                    if archive.parent == staging:
                        archive.unlink()
                    raise
                data.mkdir(parents=True, exist_ok=True)
                (staging / "extracted" / missing.folder).rename(data / missing.folder)
        except (DownloadError, ArchiveError, ChecksumError) as error:
            reasons.append(f"{_redact_url(source)}: {error}")
            print(f"skipping {reasons[-1]}")
        except OSError as error:
            raise RunError(f"cannot write to {data.parent.resolve()}: {error.strerror or error}") from error
        else:
            shutil.rmtree(staging)
            return {"source": _redact_url(source)}
    message = (
        f"could not download {dataset} from any source; "
        f"set {missing.url_variable} to a URL or local path of its archive"
    )
    raise DataUnavailableError("\n  ".join([message, *reasons]))


@contextlib.contextmanager
def _staging_dir(data: Path) -> Iterator[Path]:
    """Open the folder for unfinished downloads, on the data's file system, so that moving data is atomic."""
    staging = data.absolute().parent / STAGING_DIR
    staging.mkdir(parents=True, exist_ok=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging / "extracted", ignore_errors=True)


def _fetch(source: str, staging: Path, config: DownloadConfig, reserve_bytes: int) -> Path:
    """Return the archive as a local file; one that is local already is not copied.

    `DownloadError` if the source does not provide it.
    """
    try:
        address = urlsplit(source)
    except ValueError as error:
        raise DownloadError(f"invalid URL ({error})") from error
    if address.scheme in {"http", "https"}:
        limits = DownloadLimits(
            config.timeout_s, config.min_speed_kb_per_s, config.max_attempts, reserve_bytes
        )
        return ResumableDownload(source, staging, limits).run()
    if address.scheme not in {"", "file"}:
        raise DownloadError(f"{address.scheme} URLs are not supported; use http, https, file or a path")
    try:
        archive = Path(url2pathname(address.path)) if address.scheme else Path(source).expanduser()
        if not archive.is_file():
            raise DownloadError("not a file")
        with archive.open("rb"):
            return archive
    except OSError as error:
        raise DownloadError(f"cannot be read ({error.strerror})") from error
    except (RuntimeError, ValueError) as error:  # `~` of a user without a home folder; a null byte
        raise DownloadError(f"invalid path ({error})") from error


def _redact_url(source: str) -> str:
    """Remove user, password and query from a URL: they may hold a secret or a signature."""
    try:
        address = urlsplit(source)
    except ValueError:
        return source.split("?", maxsplit=1)[0].rpartition("@")[2]
    return f"{address.scheme}://{address.hostname}{address.path}" if address.hostname else source
