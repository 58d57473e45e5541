"""A data set's archive is downloaded by `ResumableDownload` and unpacked by `extract`.

The next attempt, or the next run, continues a broken transfer. Unpacking is safe for archives from anywhere.
"""

import hashlib
import json
import lzma
import shutil
import tarfile
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self
from urllib.parse import urlsplit

import requests
import urllib3
from tqdm import tqdm
from urllib3.util.retry import Retry

from tasks.workspace.errors import RunError
from tasks.workspace.files import read_json

BACKOFF_S = 1.0
MAX_RETRY_AFTER_S = 60.0
MAX_ARCHIVE_BYTES = 1_000_000_000  # CIFAR has 187 MB unpacked, so a larger file is something else
CHUNK_BYTES = 1 << 16
RETRY_STATUS_CODES = {408, 425, 429, 500, 502, 503, 504}
MAX_OTHER_BYTES = 10_000_000  # for all other members together: skipping them means decompressing them
MAX_HEADER_BYTES = 1 << 20  # for an extended header, such as a long name, which tarfile reads into memory


class DownloadError(Exception):
    """A source does not provide the archive; the message says why. Another source may provide it."""


class ArchiveError(Exception):
    """The archive cannot be used; the message says whether it is truncated, incomplete or unsafe."""


@dataclass(frozen=True)
class DownloadLimits:
    """A download ends when it exceeds one of these."""

    timeout_s: float
    """longest wait for the source to answer or to send anything"""
    min_speed_kb_per_s: float
    max_attempts: int
    reserve_bytes: int
    """space that must stay free on the disk beside the archive"""


class ResumableDownload:
    """A download gets one archive, in as many requests as it takes.

    The part that was received, and the server's validator for it (RFC 9110: ETag or Last-Modified), are kept
    in `staging`, under names that derive from the URL.
    """

    def __init__(self, url: str, staging: Path, limits: DownloadLimits) -> None:
        self.url = url
        self.limits = limits
        name = hashlib.sha256(url.encode()).hexdigest()[:16]
        self.file = staging / f"{name}.partial"
        self.state = staging / f"{name}.json"

    def run(self) -> Path:
        """Download the archive and return the complete file.

        `DownloadError` after `max_attempts`, or at once if a retry is of no use.
        """
        # urllib3's retry policy is applied here rather than in its connection pool: a transfer that breaks
        # off counts as an attempt, too, and the pool's log would show a URL with a signature in its query.
        retry = Retry(
            total=self.limits.max_attempts - 1,
            status_forcelist=RETRY_STATUS_CODES,
            backoff_factor=BACKOFF_S,
            backoff_jitter=BACKOFF_S,
        )
        while True:
            try:
                self._attempt()
            except requests.RequestException as error:
                retry = self._next_retry(retry, error)
            except (ValueError, urllib3.exceptions.HTTPError) as error:  # for invalid URLs, also in redirects
                raise DownloadError(f"invalid URL or response ({_one_line(error)})") from error
            else:
                return self.file

    def _next_retry(self, retry: Retry, error: requests.RequestException) -> Retry:
        """Wait for the next attempt and return the retry policy for it. `DownloadError` if there is none."""
        reason = _describe_error(error)
        response: urllib3.BaseHTTPResponse | None = error.response.raw if error.response is not None else None
        try:
            if not _is_retryable(error, retry):
                raise DownloadError(reason) from error
            retry = retry.increment("GET", self.url, response, None if response else error)
        except urllib3.exceptions.MaxRetryError:
            raise DownloadError(reason) from error
        delay_s = min(_retry_after(retry, response), MAX_RETRY_AFTER_S) or retry.get_backoff_time()
        print(f"{reason}; retrying" + (f" in {delay_s:.1f} s" if delay_s else ""), flush=True)
        time.sleep(delay_s)
        return retry

    def _attempt(self) -> None:
        """Request the archive, or the rest of it, once; requests' exceptions say that another try may do."""
        offset = self.file.stat().st_size if self.file.exists() else 0
        validator = self._cached_validator() if offset else None
        headers = {"Accept-Encoding": "identity"}
        if validator:
            # If the archive has changed, the server sends all of it instead of the rest (RFC 9110, If-Range).
            headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
        timeout = self.limits.timeout_s
        with requests.get(self.url, headers=headers, stream=True, timeout=timeout) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                if response.headers.get("Content-Range") == f"bytes */{offset}":
                    return  # the file was complete already
                self.file.unlink()
                raise requests.ConnectionError("the archive's length changed")
            response.raise_for_status()
            if response.status_code not in {requests.codes.ok, requests.codes.partial_content}:
                raise DownloadError(f"responded {response.status_code} {response.reason}")
            if response.status_code == requests.codes.ok:
                offset = 0
                etag = response.headers.get("ETag", "")
                strong_etag = etag if not etag.startswith("W/") else ""
                validator = strong_etag or response.headers.get("Last-Modified")
                self.state.write_text(json.dumps(validator), encoding="utf-8")
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                self.file.unlink()
                raise requests.ConnectionError("returned the wrong byte range")
            remaining = _content_length(response)
            if offset + remaining > MAX_ARCHIVE_BYTES:
                raise DownloadError(f"offers {(offset + remaining) / 1e6:,.0f} MB, which cannot be CIFAR")
            self._check_space(remaining)
            self._stream_to_file(response, offset, remaining)

    def _cached_validator(self) -> str | None:
        try:
            validator = read_json(self.state)
        except (OSError, ValueError):
            return None
        return validator if isinstance(validator, str) else None

    def _check_space(self, remaining: int) -> None:
        needed = remaining + self.limits.reserve_bytes
        free = shutil.disk_usage(self.file.parent).free
        if free < needed:
            raise RunError(f"not enough disk space: {free / 1e6:,.0f} MB free, {needed / 1e6:,.0f} MB needed")

    def _stream_to_file(self, response: requests.Response, offset: int, remaining: int) -> None:
        """Append the body; `DownloadError` if the speed is below `min_speed_kb_per_s` for `timeout_s`."""
        host = urlsplit(self.url).hostname or self.url
        print(f"downloading from {host}" + (f", resuming at byte {offset:,}" if offset else ""), flush=True)
        window_start, window_bytes = time.monotonic(), 0
        with (
            self.file.open("ab" if offset else "wb") as archive,
            tqdm(
                desc=host,
                total=offset + remaining or None,
                initial=offset,
                unit="B",
                unit_scale=True,
                disable=None,
            ) as bar,
        ):
            for chunk in _iter_chunks(response):
                archive.write(chunk)
                bar.update(len(chunk))
                window_bytes += len(chunk)
                if archive.tell() > MAX_ARCHIVE_BYTES:
                    raise DownloadError(f"sent more than {MAX_ARCHIVE_BYTES / 1e6:,.0f} MB")
                seconds = time.monotonic() - window_start
                if seconds >= self.limits.timeout_s:
                    speed = window_bytes / 1000 / seconds
                    if speed < self.limits.min_speed_kb_per_s:
                        raise DownloadError(f"too slow: {speed:,.0f} kB/s")
                    window_start, window_bytes = time.monotonic(), 0


def _content_length(response: requests.Response) -> int:
    """Return the `Content-Length` in bytes, 0 if there is none; equal values count once (RFC 9110, 8.6).

    `DownloadError` if it is not a number.
    """
    value = response.headers.get("Content-Length", "0")
    lengths = {length.strip() for length in value.split(",")}
    if len(lengths) != 1 or not (length := lengths.pop()).isascii() or not length.isdecimal():
        raise DownloadError(f"sent an invalid Content-Length: {value[:80]}")
    return int(length[:20])


def _iter_chunks(response: requests.Response) -> Iterator[bytes]:
    """Yield the body as it arrives, so that a slow transfer is noticed; `iter_content` fills each chunk."""
    try:
        while chunk := response.raw.read1(CHUNK_BYTES):
            yield chunk
    except urllib3.exceptions.ReadTimeoutError as error:
        raise requests.ReadTimeout(error) from error
    except urllib3.exceptions.HTTPError as error:
        raise requests.exceptions.ChunkedEncodingError(error) from error


def _is_retryable(error: requests.RequestException, retry: Retry) -> bool:
    if error.response is not None:
        return retry.is_retry(
            "GET", error.response.status_code, has_retry_after="Retry-After" in error.response.headers
        )
    return isinstance(
        error, (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    )


def _retry_after(retry: Retry, response: urllib3.BaseHTTPResponse | None) -> float:
    """Return the seconds that the server asks to wait; 0 if it does not say so, or not in a valid form."""
    try:
        return (retry.get_retry_after(response) if response else None) or 0.0
    except urllib3.exceptions.InvalidHeader:
        return 0.0


def _describe_error(error: requests.RequestException) -> str:
    if error.response is not None:
        return f"responded {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "timed out"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "connection lost"
    if isinstance(error, requests.ConnectionError):
        cause = getattr(error.args[0], "reason", error.args[0])
        return f"no connection ({type(cause).__name__})" if isinstance(cause, Exception) else str(cause)
    return _one_line(error)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def extract(archive: Path, target: Path, folder: str, max_bytes: Mapping[str, int]) -> None:
    """Write the files `folder/NAME` of a tar (plain, gz, xz, bz2) to `target`, and none of its other files.

    `max_bytes` has their names, and the size that each has at most. `ArchiveError` if it is not a tar
    archive, is truncated, lacks a file, or contains unsafe members: an absolute path, `..`, a link, a device,
    a file that is larger than the published one.
    """
    missing = set(max_bytes)
    other_bytes = 0
    try:
        with tarfile.open(archive, tarinfo=_BoundedTarInfo) as tar:
            for member in tar:
                name = _safe_member_name(member)
                if name.parent != PurePosixPath(folder) or name.name not in missing:
                    other_bytes += member.size
                    if other_bytes > MAX_OTHER_BYTES:
                        raise ArchiveError(f"unsafe archive: {name} has {member.size:,} bytes")
                    continue
                missing.remove(name.name)
                if member.size > max_bytes[name.name]:
                    raise ArchiveError(
                        f"unsafe archive: {name} has {member.size:,} bytes, "
                        f"the published file {max_bytes[name.name]:,}"
                    )
                content = tar.extractfile(member)
                if content is None:
                    raise ArchiveError(f"{name} in the archive is not a file")
                (target / folder).mkdir(parents=True, exist_ok=True)
                with content, (target / name).open("wb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise ArchiveError(_truncated_message(error)) from error
    except OSError as error:
        if error.errno is None:  # gzip and bz2 report corrupt data in this way
            raise ArchiveError(_truncated_message(error)) from error
        raise
    if missing:
        raise ArchiveError(f"the archive has no {folder}/{min(missing)}")


class _BoundedTarInfo(tarfile.TarInfo):
    """A member of the archive may have small headers only: tarfile would read any size into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if not member.isreg() and member.size > MAX_HEADER_BYTES:
            raise ArchiveError(f"unsafe archive: a header of {member.size:,} bytes")
        return member


def _truncated_message(error: Exception) -> str:
    reason = str(error).splitlines()[0].partition(": ")[0] if str(error) else type(error).__name__
    return f"truncated or invalid tar archive ({reason.rstrip(':')})"


def _safe_member_name(member: tarfile.TarInfo) -> PurePosixPath:
    # This check is stricter than `tarfile.data_filter`, which admits links and strips a leading slash, and
    # which Python 3.11.2 (Debian 12) does not have.
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise ArchiveError(f"unsafe archive: member path {member.name}")
    if not (member.isreg() or member.isdir()):
        raise ArchiveError(f"unsafe archive: {member.name} is a link or a device")
    return name
