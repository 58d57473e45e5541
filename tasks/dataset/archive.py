"""`extract` takes a data set's files out of a tar archive, and is safe for archives from anywhere."""

import lzma
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Self

from tasks.dataset.cifar import CifarFiles

MAX_OTHER_BYTES = 10_000_000  # for all other members together: skipping them means decompressing them
MAX_HEADER_BYTES = 1 << 20  # for an extended header, such as a long name, which tarfile reads into memory


class ArchiveError(Exception):
    """The archive cannot be used; the message says whether it is truncated, incomplete or unsafe."""


def extract(archive: Path, target: Path, files: CifarFiles) -> None:
    """Write the published files of a tar (plain, gz, xz, bz2) to `target`, and none of its other files.

    `ArchiveError` if it is not a tar archive, is truncated, lacks a file, or contains unsafe members: an
    absolute path, `..`, a link, a device, a file that is larger than the published one.
    """
    missing = set(files.published_md5)
    other_bytes = 0
    try:
        with tarfile.open(archive, tarinfo=_BoundedTarInfo) as tar:
            for member in tar:
                name = _safe_member_name(member)
                if name.parent != PurePosixPath(files.folder) or name.name not in missing:
                    other_bytes += member.size
                    if other_bytes > MAX_OTHER_BYTES:
                        raise ArchiveError(f"unsafe archive: {name} has {member.size:,} bytes")
                    continue
                missing.remove(name.name)
                if member.size > files.max_bytes[name.name]:
                    raise ArchiveError(
                        f"unsafe archive: {name} has {member.size:,} bytes, "
                        f"the published file {files.max_bytes[name.name]:,}"
                    )
                content = tar.extractfile(member)
                if content is None:
                    raise ArchiveError(f"{name} in the archive is not a file")
                (target / files.folder).mkdir(parents=True, exist_ok=True)
                with content, (target / name).open("wb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise ArchiveError(_truncated_message(error)) from error
    except OSError as error:
        if error.errno is None:  # gzip and bz2 report corrupt data in this way
            raise ArchiveError(_truncated_message(error)) from error
        raise
    if missing:
        raise ArchiveError(f"the archive has no {files.folder}/{min(missing)}")


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
