from pathlib import Path

import pytest
from dvc.repo import Repo

from tasks.dataset.folder import check_recorded
from tasks.workspace.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b/ä.txt", "a.txt", "b/c/d", "b-c"):
        file = Path("data", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    with Repo.init(no_scm=True) as repo:
        repo.add("data")
    return Path("data")


def test_check_recorded_agrees_with_dvc(folder: Path) -> None:
    check_recorded(folder, {})


def test_check_recorded_takes_known_checksums(folder: Path) -> None:
    with pytest.raises(InputError, match="is not what"):
        check_recorded(folder, {folder / "a.txt": "0" * 32})


@pytest.mark.parametrize("content", ["outs: []\n", "wdir: x\n", "outs:\n- path: data\n"])
def test_check_recorded_of_a_record_without_a_hash_is_an_input_error(folder: Path, content: str) -> None:
    Path("data.dvc").write_text(content)
    with pytest.raises(InputError, match="records no folder"):
        check_recorded(folder, {})
