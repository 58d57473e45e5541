"""What a DVC user does, with DVC's own commands, in a Git repository with the sample as its data."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tasks.registry.ledger import CHAMPION
from tests.e2e.conftest import run_command

pytestmark = pytest.mark.slow


def dvc(*arguments: str) -> str:
    return run_command("dvc", *arguments)


def test_dvc_repro_second_time_runs_nothing(project: Path) -> None:
    assert "up to date" in dvc("status")
    assert "Running stage" not in dvc("repro")
    assert run_command("git", "status", "--short") == ""


def test_git_tracks_reports_and_no_artifacts(project: Path) -> None:
    tracked = set(run_command("git", "ls-files").split())
    assert {
        "reports/metrics.json",
        "reports/history.csv",
        "reports/predictions.csv",
        "reports/benchmark.json",
    } <= tracked
    assert not {file for file in tracked if file.startswith(("artifacts/", "data/"))}


def test_dvc_metrics_show_reads_reports(project: Path) -> None:
    shown = json.loads(dvc("metrics", "show", "--json"))[""]["data"]
    accuracy = json.loads(Path("reports/metrics.json").read_text())["test"]["accuracy"]
    assert shown["reports/metrics.json"]["data"]["test"]["accuracy"] == pytest.approx(accuracy, abs=1e-5)
    assert shown["reports/benchmark.json"]["data"]["dataset"] == "sample"


def test_dvc_plots_show_draws_curves_and_confusion(project: Path, tmp_path: Path) -> None:
    dvc("plots", "show", "--out", str(tmp_path / "plots"))
    page = (tmp_path / "plots" / "index.html").read_text()
    assert {"Loss", "Accuracy", "Confusion"} <= set(page.replace('"', " ").split())
    rows: dict[str, Any] = json.loads(dvc("plots", "show", "--json"))
    assert not rows.get("errors")


def test_dvc_artifacts_get_champion(project: Path, tmp_path: Path) -> None:
    CHAMPION.parent.mkdir()
    shutil.copy("artifacts/model.onnx", CHAMPION)
    dvc("add", "--quiet", str(CHAMPION))
    run_command("git", "add", "registry")
    run_command("git", "commit", "--quiet", "--message", "champion")
    # how DVC's model registry marks a version
    run_command("git", "tag", "--annotate", "--message", "v1", "image-classifier@v1.0.0")
    dvc("artifacts", "get", str(project), "image-classifier", "--out", str(tmp_path / "model.onnx"))
    assert (tmp_path / "model.onnx").read_bytes() == Path("artifacts/model.onnx").read_bytes()


def test_dvc_exp_run_changed_parameter_is_an_experiment(project: Path) -> None:
    before = json.loads(Path("reports/metrics.json").read_text())["test"]["ece"]
    dvc("exp", "run", "--name", "coarse", "-S", "evaluate.calibration_bins=3")
    assert "calibration_bins: 3" in Path("params.yaml").read_text()
    after = json.loads(Path("reports/metrics.json").read_text())["test"]["ece"]
    ece = json.loads(dvc("metrics", "diff", "--json"))["reports/metrics.json"]["test.ece"]
    assert (ece["old"], ece["new"]) == (pytest.approx(before), pytest.approx(after))
    assert before != after
    assert "coarse" in dvc("exp", "list", "--name-only")
    run_command("git", "checkout", "--quiet", "--", ".")
    assert "Running stage" not in dvc("repro")  # DVC's run cache brings the earlier results back
    assert run_command("git", "status", "--short") == ""


def test_dvc_push_and_pull_bring_everything_back(project: Path, tmp_path: Path) -> None:
    dvc("remote", "add", "--local", "--default", "--force", "elsewhere", str(tmp_path / "remote"))
    dvc("push", "--quiet")
    before = {file: file.read_bytes() for file in Path("artifacts").iterdir()}
    for missing in ("artifacts", "data", ".dvc/cache"):
        shutil.rmtree(missing)
    dvc("pull", "--quiet")
    assert {file: file.read_bytes() for file in Path("artifacts").iterdir() if file.name != ".gitignore"} == {
        file: content for file, content in before.items() if file.name != ".gitignore"
    }
    assert "up to date" in dvc("status")


def test_dvc_repro_changed_byte_in_data_fails(project: Path) -> None:
    file = Path("data/cifar-10-batches-py/data_batch_1")
    good = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(good[:-1] + b"!")
    done = subprocess.run(["dvc", "repro"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    assert "split: data/cifar-10-batches-py/data_batch_1" in done.stderr
    assert "not the published file" in done.stderr
    assert "Traceback" not in done.stderr
    run_command("git", "checkout", "--quiet", "--", ".")  # DVC silently accepted the changed data
    dvc("checkout", "--force")
    assert file.read_bytes() == good
    assert "up to date" in dvc("status")


def test_dvc_repro_wrong_parameter_fails(project: Path) -> None:
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("\n  epochs: 1\n", "\n  epochs: four\n"))
    done = subprocess.run(["dvc", "repro"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    assert "params.yaml: train.epochs should be an integer from 1 to 100000, not 'four'" in done.stderr
