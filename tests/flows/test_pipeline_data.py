"""The data of the pipeline: verified, restored from DVC's cache or remote, its download tried again."""

import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from tasks.download import DataUnavailableError
from tests.flows.conftest import read_task_states, run_pipeline

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]


def test_pipeline_changed_byte_in_data_fails(workspace: Path) -> None:
    file = Path("data/cifar-10-batches-py/data_batch_2")
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    before = Path("data.dvc").read_bytes()
    state = run_pipeline()
    assert state.is_failed()
    assert "data_batch_2" in str(state.message)
    assert "not the published file" in str(state.message)
    assert Path("data.dvc").read_bytes() == before


def test_pipeline_missing_data_is_restored_from_cache(workspace: Path) -> None:
    shutil.rmtree("data")
    tasks = read_task_states(run_pipeline())
    assert (tasks["download"].name, tasks["split"].name) == ("Restored", "Cached")


def test_pipeline_missing_data_is_restored_from_remote(workspace: Path, tmp_path: Path) -> None:
    Path(".dvc", "config").write_text(
        f"[core]\n no_scm = True\n remote = r\n['remote \"r\"']\n url = {tmp_path}/remote\n"
    )
    with Repo() as repo:
        repo.push()
    for missing in ("data", "artifacts", ".dvc/cache"):
        shutil.rmtree(missing)
    with Repo() as repo:
        repo.fetch(run_cache=False)
    assert {name: task.name for name, task in read_task_states(run_pipeline()).items()} == {
        "download": "Restored",
        "split": "Restored",
        "train": "Restored",
        "evaluate": "Cached",
        "export": "Restored",
        "quantize": "Restored",
        "benchmark": "Cached",
        "report": "Cached",
    }


def test_pipeline_download_is_retried(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def download(dataset: str) -> None:
        calls.append("download")
        raise DataUnavailableError("nobody answers")

    monkeypatch.setattr("tasks.download.download", download)
    monkeypatch.setattr("flows.pipeline.download.retry_delay_seconds", [0.0])
    state = run_pipeline(download_retries=2)
    assert state.message == "download: nobody answers"
    assert calls == ["download"] * 3
