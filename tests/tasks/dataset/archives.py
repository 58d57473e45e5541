"""Small files in place of CIFAR-10's, and tar archives of them."""

import hashlib
import io
import tarfile
from dataclasses import replace

import pytest

from tasks.dataset import cifar

FILES = {name: f"the content of {name} ".encode() * 2_000 for name in cifar.CIFAR10.published_md5}


def replace_published_md5(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checksums that go with FILES."""
    md5s = {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in FILES.items()}
    sizes = {name: len(content) for name, content in FILES.items()}
    small = replace(cifar.CIFAR10, published_md5=md5s, max_bytes=sizes)
    monkeypatch.setattr(cifar, "CIFAR10", small)


def build_tar(files: dict[str, bytes], mode: str = "w:gz", *extra: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(f"{cifar.CIFAR10.folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)
    return buffer.getvalue()


def build_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, size
    return member


ARCHIVE = build_tar(FILES, "w")
ALTERED = FILES | {"data_batch_2": b"X" + FILES["data_batch_2"][1:]}
