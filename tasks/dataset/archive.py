"""Safe extraction of a data set's files from a tar archive."""

import lzma
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from tasks.dataset.cifar import CifarFiles

MAX_MEMBER_BYTES = 1_000_000_000


class ArchiveError(Exception):
    """The reason why an archive is of no use: truncated, incomplete or unsafe."""


def extract(archive: Path, target: Path, files: CifarFiles) -> None:
    """Write the published files from a tar (plain, gz, xz, bz2) to `target`, and nothing else in it.

    `ArchiveError` if it is not a tar archive, is truncated, lacks a file, or contains unsafe members: an
    absolute path, `..`, a link, a device, a huge file.
    """
    missing = set(files.published_md5)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = _safe_member_name(member)
                if name.parent != PurePosixPath(files.folder) or name.name not in missing:
                    continue
                missing.remove(name.name)
                content = tar.extractfile(member)
                if content is None:
                    raise ArchiveError(f"{name} in the archive is not a file")
                (target / files.folder).mkdir(parents=True, exist_ok=True)
                with content, (target / name).open("wb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise ArchiveError(_truncated_message(error)) from error
    except OSError as error:
        if error.errno is None:  # how gzip and bz2 report corrupt data
            raise ArchiveError(_truncated_message(error)) from error
        raise
    if missing:
        raise ArchiveError(f"the archive has no {files.folder}/{min(missing)}")


def _truncated_message(error: Exception) -> str:
    reason = str(error).splitlines()[0].partition(": ")[0] if str(error) else type(error).__name__
    return f"truncated or invalid tar archive ({reason.rstrip(':')})"


def _safe_member_name(member: tarfile.TarInfo) -> PurePosixPath:
    # Stricter than `tarfile.data_filter`, which admits links and strips a leading slash; and Python 3.11.2
    # (Debian 12) does not have that.
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise ArchiveError(f"unsafe archive: member path {member.name}")
    if not (member.isreg() or member.isdir()):
        raise ArchiveError(f"unsafe archive: {member.name} is a link or a device")
    if member.size > MAX_MEMBER_BYTES:
        raise ArchiveError(f"unsafe archive: {member.name} has {member.size:,} bytes")
    return name
