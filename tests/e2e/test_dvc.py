"""What a DVC user does, with DVC's own commands, in a Git repository with the sample as its data."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flows.runtime.sample_workspace import prepare_sample_workspace
from tasks.registry.ledger import CHAMPION
from tests.conftest import ROOT


def sh(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dvc(*arguments: str) -> str:
    return sh("dvc", *arguments)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the sample as its data, in Git, after `dvc repro`."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("tasks", "models"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        workspace = prepare_sample_workspace(Path())
        (workspace / "data").rename("data")
        (workspace / "params.yaml").rename("params.yaml")
        shutil.rmtree(workspace)
        sh("git", "init", "--quiet")
        sh("git", "config", "user.email", "tests@example.org")
        sh("git", "config", "user.name", "tests")
        dvc("init", "--quiet")
        dvc("add", "--quiet", "data")
        dvc("repro", "--quiet")
        sh("git", "add", "--all")
        sh("git", "commit", "--quiet", "--message", "first")
    return folder


@pytest.fixture
def project(reproduced: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(reproduced)
    return reproduced


def test_nothing_is_left_to_do(project: Path) -> None:
    assert "up to date" in dvc("status")
    assert "Running stage" not in dvc("repro")
    assert sh("git", "status", "--short") == ""


def test_git_holds_results_and_no_artifact(project: Path) -> None:
    tracked = set(sh("git", "ls-files").split())
    assert {
        "reports/metrics.json",
        "reports/history.csv",
        "reports/confusion.csv",
        "reports/benchmark.json",
    } <= tracked
    assert not {file for file in tracked if file.startswith(("artifacts/", "data/"))}


def test_metrics(project: Path) -> None:
    shown = json.loads(dvc("metrics", "show", "--json"))[""]["data"]
    accuracy = json.loads(Path("reports/metrics.json").read_text())["test"]["accuracy"]
    assert shown["reports/metrics.json"]["data"]["test"]["accuracy"] == pytest.approx(accuracy, abs=1e-5)
    assert shown["reports/benchmark.json"]["data"]["dataset"] == "sample"


def test_plots(project: Path, tmp_path: Path) -> None:
    dvc("plots", "show", "--out", str(tmp_path / "plots"))
    page = (tmp_path / "plots" / "index.html").read_text()
    assert {"Loss", "Accuracy", "Confusion"} <= set(page.replace('"', " ").split())
    rows: dict[str, Any] = json.loads(dvc("plots", "show", "--json"))
    assert not rows.get("errors")


def test_the_champion_is_an_artifact_that_dvc_finds(project: Path, tmp_path: Path) -> None:
    CHAMPION.parent.mkdir()
    shutil.copy("artifacts/model.onnx", CHAMPION)
    dvc("add", "--quiet", str(CHAMPION))
    sh("git", "add", "registry")
    sh("git", "commit", "--quiet", "--message", "champion")
    # how DVC's model registry marks a version
    sh("git", "tag", "--annotate", "--message", "v1", "cifar10-classifier@v1.0.0")
    dvc("artifacts", "get", str(project), "cifar10-classifier", "--out", str(tmp_path / "model.onnx"))
    assert (tmp_path / "model.onnx").read_bytes() == Path("artifacts/model.onnx").read_bytes()
    sh("git", "reset", "--quiet", "--hard", "HEAD~1")
    shutil.rmtree("registry")


def test_experiment_with_another_parameter(project: Path) -> None:
    dvc("exp", "run", "--name", "longer", "-S", "train.epochs=5")
    assert "epochs: 5" in Path("params.yaml").read_text()
    epochs = json.loads(dvc("metrics", "diff", "--json"))["reports/metrics.json"]["epochs"]
    assert (epochs["old"], epochs["new"]) == (4, 5)
    assert "longer" in dvc("exp", "list", "--name-only")
    sh("git", "checkout", "--quiet", "--", ".")
    assert "Running stage" not in dvc("repro")  # DVC's run cache brings the earlier results back
    assert sh("git", "status", "--short") == ""


def test_push_and_pull(project: Path, tmp_path: Path) -> None:
    dvc("remote", "add", "--local", "--default", "--force", "elsewhere", str(tmp_path / "remote"))
    dvc("push", "--quiet")
    before = {file: file.read_bytes() for file in Path("artifacts").iterdir()}
    for gone in ("artifacts", "data", ".dvc/cache"):
        shutil.rmtree(gone)
    dvc("pull", "--quiet")
    assert {file: file.read_bytes() for file in Path("artifacts").iterdir() if file.name != ".gitignore"} == {
        file: content for file, content in before.items() if file.name != ".gitignore"
    }
    assert "up to date" in dvc("status")


def test_changed_byte_in_the_data_fails_the_run(project: Path) -> None:
    file = Path("data/cifar-10-batches-py/data_batch_1")
    good = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(good[:-1] + b"!")
    done = subprocess.run(["dvc", "repro"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "split: data/cifar-10-batches-py/data_batch_1 is not the published file" in done.stderr
    assert "Traceback" not in done.stderr
    sh("git", "checkout", "--quiet", "--", ".")  # DVC took the altered data in, without a word
    dvc("checkout", "--force")
    assert file.read_bytes() == good
    assert "up to date" in dvc("status")


def test_wrong_parameter_fails_the_run(project: Path) -> None:
    params = Path("params.yaml")
    good = params.read_text()
    params.write_text(good.replace("  epochs: 4", "  epochs: four"))
    done = subprocess.run(["dvc", "repro"], capture_output=True, text=True, check=False)
    params.write_text(good)
    assert done.returncode != 0
    assert "params.yaml: train.epochs should be an integer, not 'four'" in done.stderr
    sh("git", "checkout", "--quiet", "--", ".")
    dvc("checkout", "--force")
