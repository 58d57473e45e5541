"""Prefect's file about a run keeps no secrets."""

import tempfile
from pathlib import Path

import pytest
from prefect.runner._workspace_runtime import PreparedWorkspaceManifest, read_model

from flows.run.killed_runs import MANIFESTS, clear_manifest_environment


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def save_manifest(folder: Path, name: str, working_directory: Path) -> Path:
    file = folder / MANIFESTS.replace("*", name)
    file.parent.mkdir()
    manifest = PreparedWorkspaceManifest(
        working_directory=working_directory,
        project_root=None,
        runtime_entrypoint="flows/retrain.py:retrain",
        environment={"GIT_TOKEN": "planted"},
        hook_command=["python"],
    )
    file.write_text(manifest.model_dump_json())
    return file


def test_environment_of_this_run_is_cleared_and_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "clone").mkdir()
    ours, other = save_manifest(folder, "a", folder / "clone"), save_manifest(folder, "b", folder / "other")
    before = other.read_bytes()
    (folder / "prefect-workspace-attempt-c").mkdir()
    (folder / "prefect-workspace-attempt-c/workspace.json").write_text("{")
    monkeypatch.chdir(folder / "clone")
    clear_manifest_environment()
    assert "planted" not in ours.read_text()
    assert read_model(ours, PreparedWorkspaceManifest).working_directory == folder / "clone"
    assert other.read_bytes() == before
