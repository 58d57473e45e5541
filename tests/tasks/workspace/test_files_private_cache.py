import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.training.compile import keep_inductor_cache_private
from tasks.workspace.errors import RunError
from tasks.workspace.files import check_private, open_private_cache
from tests.conftest import ROOT


def make_shared(path: Path) -> None:
    path.chmod(0o777)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CIFARFLOW_CACHE", str(tmp_path / "parent" / "cache"))
    return tmp_path / "parent" / "cache"


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_private_cache_is_made_for_the_user_alone_whatever_the_umask(cache: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder = open_private_cache("operators")
    finally:
        os.umask(before)
    assert folder == cache / "operators"
    assert [place.stat().st_mode & 0o777 for place in (folder, cache, cache.parent)] == [0o700] * 3
    assert open_private_cache("operators") == folder


def test_private_cache_is_closed_to_others_if_it_was_open(cache: Path) -> None:
    open_private_cache("dvc").chmod(0o755)
    assert open_private_cache("dvc").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777])
@pytest.mark.parametrize("place", ["parent/cache/operators", "parent/cache", "parent"])
def test_private_cache_that_others_can_write_to_is_refused(
    cache: Path, tmp_path: Path, mode: int, place: str
) -> None:
    open_private_cache("operators")
    (tmp_path / place).chmod(mode)
    if mode == 0o1777 and place != "parent/cache/operators":  # as /tmp: the folder in it cannot be replaced
        open_private_cache("operators")
        return
    with pytest.raises(RunError, match=rf"other users can write to {tmp_path / place} \(chmod go-w "):
        open_private_cache("operators")


@pytest.mark.parametrize("place", ["parent/cache/operators", "parent/cache", "parent"])
def test_private_cache_of_another_user_is_refused(
    cache: Path, tmp_path: Path, other_uid: int, place: str
) -> None:
    open_private_cache("operators")
    os.chown(tmp_path / place, other_uid, -1)
    with pytest.raises(RunError, match=f"{tmp_path / place} belongs to another user"):
        open_private_cache("operators")


@pytest.mark.parametrize("change", [make_shared, lambda path: os.chown(path, 65534, -1)])
def test_private_cache_is_judged_by_where_a_link_leads(
    cache: Path, tmp_path: Path, other_uid: int, change: Callable[[Path], None]
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    cache.parent.mkdir()
    cache.symlink_to(target)
    assert open_private_cache("operators") == target / "operators"
    change(target)
    with pytest.raises(RunError, match=str(target)):
        open_private_cache("operators")


def test_link_of_another_user_is_judged_by_where_it_leads(
    cache: Path, tmp_path: Path, other_uid: int
) -> None:
    """What is loaded is there, and cannot be changed by turning the link."""
    cache.parent.mkdir()
    cache.symlink_to(tmp_path)
    os.lchown(cache, other_uid, -1)
    assert open_private_cache("operators") == tmp_path / "operators"


@pytest.mark.parametrize("obstacle", ["file", "loop"])
def test_private_cache_that_cannot_be_made_is_one_line(cache: Path, obstacle: str) -> None:
    cache.parent.mkdir()
    if obstacle == "file":
        cache.touch()
    else:
        cache.symlink_to(cache)
    with pytest.raises(RunError, match=r"cannot read or write .*cache.*: .+") as error:
        open_private_cache("operators")
    assert "\n" not in str(error.value)


def test_check_private_holds_for_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "library.so"
    file.touch(mode=0o600)
    check_private(file)
    file.chmod(0o660)
    with pytest.raises(RunError, match="other users can write to"):
        check_private(file)


def test_inductor_keeps_its_code_in_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    keep_inductor_cache_private()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(cache / "inductor")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    keep_inductor_cache_private()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere"


def test_inductor_has_a_folder_of_its_own_where_the_cache_is_not_safe(cache: Path) -> None:
    open_private_cache("inductor").chmod(0o777)
    code = (
        "from tasks.training.compile import keep_inductor_cache_private as keep; keep(); "
        "from torch._inductor.runtime.cache_dir_utils import cache_dir; import os; "
        "print(cache_dir(), oct(os.stat(cache_dir()).st_mode & 0o777))"
    )
    environ = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    (reason,), (folder, mode) = process.stderr.splitlines(), process.stdout.split()
    assert f"other users can write to {cache / 'inductor'}" in reason
    assert Path(folder).name.startswith("inductor-")
    assert mode == "0o700"
    assert not Path(folder).exists()  # it ends with the process
