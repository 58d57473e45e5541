"""The stage `download` puts CIFAR into a folder, which appears only when it is complete and verified.

These sources are tried in order: the folder itself; `CIFAR10_URL` or `CIFAR100_URL`; the sources in
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

from tasks.dataset import cifar
from tasks.dataset.archive import ArchiveError, extract
from tasks.dataset.folder import list_images
from tasks.dataset.http import DownloadError, ResumableDownload
from tasks.workspace.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.params import DownloadConfig

STAGING_DIR = ".cifar10-download"  # folder beside the data, for incomplete downloads


class DataUnavailableError(RunError):
    """No source provides the data now; a later attempt may succeed."""


def download(data: Path, dataset: str, config: DownloadConfig) -> dict[str, Any]:
    """Put the data set into the folder `data`, and verify every file against its checksum.

    Returns the `source`, None if the data was there already. The user's own images (`folder`) are not
    downloaded: `InputError` if there are none. A data set that is there but differs from the published one is
    never changed: `ChecksumError`. `DataUnavailableError` if no source provides the data.
    """
    if dataset == "folder":
        list_images(data)
        return {"source": None}
    files = cifar.DATASETS[dataset]
    folder = data / files.folder
    if folder.exists() or dataset == "sample":
        cifar.verify(data, dataset)
        return {"source": None}
    published = config.sources if dataset == "CIFAR-10" else config.cifar100_sources
    sources = [*filter(None, [os.environ.get(files.url_variable)]), *published]
    reasons = []
    for source in sources:
        try:
            with _staging_dir(data) as staging:
                archive = _fetch(source, staging, config, files.num_bytes)
                try:
                    extract(archive, staging / "extracted", files)
                    cifar.verify(staging / "extracted", dataset)
                except (ArchiveError, cifar.ChecksumError):
                    if archive.parent == staging:
                        archive.unlink()
                    raise
                data.mkdir(parents=True, exist_ok=True)
                (staging / "extracted" / files.folder).rename(folder)
        except (DownloadError, ArchiveError, cifar.ChecksumError) as error:
            reasons.append(f"{_redact_url(source)}: {error}")
            print(f"skipping {reasons[-1]}")
        except OSError as error:
            raise RunError(f"cannot write to {data.parent.resolve()}: {error.strerror or error}") from error
        else:
            shutil.rmtree(staging)
            return {"source": _redact_url(source)}
    message = (
        f"could not download {dataset} from any source; "
        f"set {files.url_variable} to a URL or local path of its archive"
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
        return ResumableDownload(source, staging, config, reserve_bytes=reserve_bytes).run()
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
