import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.cli.sample_workspace import prepare_sample_workspace
from tasks.workspace.errors import InputError
from tests.conftest import copy_of_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(copy_of_project(tmp_path))
    return Path()


def test_prepare_sample_workspace_where_a_file_has_its_name_names_the_remedy(project: Path) -> None:
    (project / "sample").touch()
    with pytest.raises(InputError, match=r"sample is a file.*move it away"):
        prepare_sample_workspace(project)


def test_prepare_sample_workspace_after_a_kill_repairs_what_is_half_made(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = prepare_sample_workspace(project)
    (workspace / ".dvc/config").unlink()  # as if killed before DVC wrote it
    shutil.rmtree(workspace / "data")
    (workspace / ".data.partial").mkdir()
    (workspace / "tasks/split.py").unlink()
    prepare_sample_workspace(project)
    assert (workspace / "tasks/split.py").is_file()
    assert (workspace / "data/cifar-10-batches-py/test_batch").is_file()
    monkeypatch.chdir(workspace)
    with Repo() as repo:
        assert repo.status(["data.dvc"]) == {}
