"""Reproduce a champion that was trained, promoted and published for real, on the sample."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.cli.main import run_command
from flows.run.lock import workspace_lock
from tasks.dataset.synthetic import generate_sample
from tasks.registry import ledger
from tests.flows.conftest import git

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def test_champion_is_reproduced_bit_for_bit_and_other_data_are_noticed(
    champion_copy: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIFARFLOW_CACHE", str(tmp_path / "home-cache"))
    (first,) = ledger.read_ledger()
    # Everything changes after the promotion: code, parameters, data, and what was made.
    Path("tasks/train.py").write_text("raise SystemExit(3)\n")
    shutil.rmtree("data")
    generate_sample(Path("data"), seed=1)
    with Repo() as repo:
        repo.add("data")
    Path("params.yaml").write_text("dataset: none\n")
    shutil.rmtree("artifacts")
    changed = git("status", "--porcelain")
    kept = tmp_path / "kept"
    with workspace_lock():
        assert run_command(["reproduce", "--keep", str(kept)]) == 0
    assert capfd.readouterr().out.startswith("champion 1 reproduced, bit for bit, in ")
    assert git("status", "--porcelain") == changed
    assert (kept / "artifacts/model.onnx").read_bytes() == Path("registry/champion.onnx").read_bytes()
    assert not (kept / "artifacts/tracking.json").exists(), "a repeated training is not tracked"

    record = {**(first.reproduction or {}), "data_dvc": Path("data.dvc").read_text()}
    ledger.append(replace(first, reproduction=record))
    assert run_command(["reproduce", "2"]) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith(
        "cifarflow: champion 2 was not reproduced: the stage split has made another "
        "artifacts/splits.safetensors: 6 of its 6 tensors differ, by up to "
    )
    assert "its data_md5 is '" in error
