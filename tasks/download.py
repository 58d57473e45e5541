"""The stage `download`: CIFAR-10 under its name in the workspace, whole and verified, or not at all.

It is had from the first of these that works: the folder itself; `CIFAR10_URL`; the sources of `params.yaml`.
An archive that was fetched in part is kept beside the data, and the next run goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import os
import random
import shutil
import tarfile
import time
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
import urllib3
from tqdm import tqdm

from tasks.dataset import cifar10
from tasks.workspace.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.params import DownloadConfig

STAGING_DIR = ".cifar10-download"  # beside the data: what was fetched so far
UNPACKED_BYTES = 186_214_114
MAX_MEMBER_BYTES = 1_000_000_000
BACKOFF_S = 1.0
CHUNK_BYTES = 1 << 16
RETRY_STATUS_CODES = {408, 425, 429, 500, 502, 503, 504}


class DataUnavailableError(RunError):
    """No source gave the data; another time one may."""


class SourceError(Exception):
    """Why a source was given up."""


def download(data: Path, dataset: str, config: DownloadConfig) -> dict[str, Any]:
    """Have the data set in the folder `data`, every file held against its checksum.

    Reports the `source` that it came from, None where it was there. A folder that is there but differs is
    never touched: `AlteredDataError`.
    """
    folder = data / cifar10.BASE_FOLDER
    if folder.exists() or dataset == "sample":
        cifar10.verify(data, dataset)
        return {"source": None}
    sources = [*filter(None, [os.environ.get("CIFAR10_URL")]), *config.sources]
    reasons = []
    for source in sources:
        try:
            with _staging_dir(data) as kept:
                archive = _fetch(source, kept, config)
                try:
                    extract(archive, kept / "unpacked")
                    cifar10.verify(kept / "unpacked", dataset)
                except (SourceError, cifar10.ChecksumError):
                    if archive.parent == kept:
                        archive.unlink()
                    raise
                data.mkdir(parents=True, exist_ok=True)
                (kept / "unpacked" / cifar10.BASE_FOLDER).rename(folder)
        except (SourceError, cifar10.ChecksumError) as error:
            reasons.append(f"  {_redact_url(source)}: {error}")
            print(f"given up: {reasons[-1].strip()}")
        except OSError as error:
            raise RunError(f"cannot write to {data.parent.resolve()}: {error.strerror or error}") from error
        else:
            shutil.rmtree(kept)
            return {"source": _redact_url(source)}
    raise DataUnavailableError(
        "\n".join(["no source gives CIFAR-10; set CIFAR10_URL to a URL or path of its archive", *reasons])
    )


@contextlib.contextmanager
def _staging_dir(data: Path) -> Iterator[Path]:
    """The folder of what is not finished yet, beside the data so that a move is one step."""
    staging = data.absolute().parent / STAGING_DIR
    staging.mkdir(parents=True, exist_ok=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging / "unpacked", ignore_errors=True)


def _fetch(source: str, kept: Path, config: DownloadConfig) -> Path:
    """The archive as a local file; what is local already stays where it is."""
    address = urlsplit(source)
    if address.scheme in {"http", "https"}:
        return ResumableDownload(source, kept, config).run()
    if address.scheme not in {"", "file"}:
        raise SourceError(f"{address.scheme} addresses are not supported; give http, https, file or a path")
    archive = Path(url2pathname(address.path)) if address.scheme else Path(source).expanduser()
    if not archive.is_file():
        raise SourceError("is no file")
    return archive


class ResumableDownload:
    """One archive over HTTP, in as many pieces as it takes."""

    def __init__(self, url: str, kept: Path, config: DownloadConfig) -> None:
        self.url = url
        self.config = config
        name = hashlib.sha256(url.encode()).hexdigest()[:16]
        self.file = kept / f"{name}.partial"
        self.state = kept / f"{name}.json"

    def run(self) -> Path:
        for attempt in range(1, self.config.max_attempts + 1):
            try:
                self._attempt()
            except requests.RequestException as error:
                reason = _describe_error(error)
                if attempt == self.config.max_attempts or not _is_retryable(error):
                    raise SourceError(reason) from error
                delay_s = BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
                print(f"{reason}; tries again in {delay_s:.1f} s")
                time.sleep(delay_s)
            else:
                break
        return self.file

    def _attempt(self) -> None:
        offset = self.file.stat().st_size if self.file.exists() else 0
        validator = self._cached_validator() if offset else None
        headers = {"Accept-Encoding": "identity"}
        if validator:
            # Only if the archive is still the one that the first part is of (RFC 9110, If-Range).
            headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
        timeout = self.config.timeout_s
        with requests.get(self.url, headers=headers, stream=True, timeout=timeout) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                if response.headers.get("Content-Range") == f"bytes */{offset}":
                    return  # all of it was there
                self.file.unlink()
                raise requests.ConnectionError("its length changed")
            response.raise_for_status()
            if response.status_code != requests.codes.partial_content:
                offset = 0
                etag = response.headers.get("ETag", "")
                strong = etag if not etag.startswith("W/") else ""
                self.state.write_text(json.dumps(strong or response.headers.get("Last-Modified")))
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                self.file.unlink()
                raise requests.ConnectionError("sent another part than was asked for")
            remaining = int(response.headers.get("Content-Length", 0))
            self._check_space(remaining)
            self._stream_to_file(response, offset, remaining)

    def _cached_validator(self) -> str | None:
        try:
            validator = json.loads(self.state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return validator if isinstance(validator, str) else None

    def _check_space(self, remaining: int) -> None:
        needed = remaining + UNPACKED_BYTES
        free = shutil.disk_usage(self.file.parent).free
        if free < needed:
            raise RunError(
                f"the disk has {free / 1e6:,.0f} MB free and {needed / 1e6:,.0f} MB are needed for the data"
            )

    def _stream_to_file(self, response: requests.Response, have: int, remaining: int) -> None:
        """Append to the file. A source that stays slow for as long as it may stay silent is given up."""
        name = urlsplit(self.url).hostname or self.url
        print(f"downloading from {name}" + (f", from byte {have:,} on" if have else ""), flush=True)
        window_began, window_bytes = time.monotonic(), 0
        with (
            self.file.open("ab" if have else "wb") as archive,
            tqdm(
                desc=name,
                total=have + remaining or None,
                initial=have,
                unit="B",
                unit_scale=True,
                disable=None,
            ) as bar,
        ):
            for chunk in _iter_chunks(response):
                archive.write(chunk)
                bar.update(len(chunk))
                window_bytes += len(chunk)
                seconds = time.monotonic() - window_began
                if seconds >= self.config.timeout_s:
                    speed = window_bytes / 1000 / seconds
                    if speed < self.config.min_speed_kb_per_s:
                        raise SourceError(f"too slow: {speed:,.0f} kB/s")
                    window_began, window_bytes = time.monotonic(), 0


def _iter_chunks(response: requests.Response) -> Iterator[bytes]:
    """The body as it arrives, so that a trickle is seen as one: `iter_content` waits for a full chunk."""
    try:
        while chunk := response.raw.read1(CHUNK_BYTES):
            yield chunk
    except urllib3.exceptions.ReadTimeoutError as error:
        raise requests.ReadTimeout(error) from error
    except urllib3.exceptions.HTTPError as error:
        raise requests.exceptions.ChunkedEncodingError(error) from error


def _is_retryable(error: requests.RequestException) -> bool:
    if error.response is not None:
        return error.response.status_code in RETRY_STATUS_CODES
    return isinstance(
        error, (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    )


def _describe_error(error: requests.RequestException) -> str:
    if error.response is not None:
        return f"answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "sends nothing"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.ConnectionError):
        cause = getattr(error.args[0], "reason", error.args[0])
        return f"no connection ({type(cause).__name__})" if isinstance(cause, Exception) else str(cause)
    return str(error)


def extract(archive: Path, target: Path) -> None:
    """Write CIFAR-10's files from a tar (plain, gz, xz, bz2) to `target`, and nothing else that it holds.

    `SourceError` where the archive is none, is cut short, lacks a file, or holds what an honest one has no
    reason to hold (an absolute path, `..`, a link, a device, a huge file).
    """
    missing = set(cifar10.PUBLISHED_MD5)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = _safe_member_name(member)
                if name.parent != PurePosixPath(cifar10.BASE_FOLDER) or name.name not in missing:
                    continue
                missing.remove(name.name)
                content = tar.extractfile(member)
                if content is None:
                    raise SourceError(f"{name} in the archive is no file")
                (target / cifar10.BASE_FOLDER).mkdir(parents=True, exist_ok=True)
                with content, (target / name).open("wb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise SourceError(_truncated_message(error)) from error
    except OSError as error:
        if error.errno is None:  # how gzip and bz2 report damaged data
            raise SourceError(_truncated_message(error)) from error
        raise
    if missing:
        raise SourceError(f"the archive has no {cifar10.BASE_FOLDER}/{min(missing)}")


def _truncated_message(error: Exception) -> str:
    reason = str(error).splitlines()[0].partition(": ")[0] if str(error) else type(error).__name__
    return f"is not a whole tar archive ({reason.rstrip(':')})"


def _safe_member_name(member: tarfile.TarInfo) -> PurePosixPath:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise SourceError(f"hostile archive: it would write to {member.name}")
    if not (member.isreg() or member.isdir()):
        raise SourceError(f"hostile archive: {member.name} is a link or a device")
    if member.size > MAX_MEMBER_BYTES:
        raise SourceError(f"hostile archive: {member.name} has {member.size:,} bytes")
    return name


def _redact_url(source: str) -> str:
    """The address without a user, a password and a query, in which signatures stand."""
    address = urlsplit(source)
    return f"{address.scheme}://{address.hostname}{address.path}" if address.hostname else source
