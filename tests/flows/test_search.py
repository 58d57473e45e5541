"""Searches on real clusters: the same trials on any number of workers, and after a kill."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.settings import get_current_settings

from flows.cli.main import run_command
from flows.search import search
from tasks.overrides import parse_overrides, read_recipe, with_overrides
from tasks.params import read_params
from tests.brightness import save_brightness_splits
from tests.conftest import ROOT
from tests.shipped_params import PARAMS_FILE

SPACE = ["train.lr=log:0.0005..0.02", "train.optimizer=adam,adamw"]
OVERRIDES = ["train.epochs=3", "train.device=cpu", "train.num_threads=1", "train.batch_size=20"]
OPTIONS = [text for change in OVERRIDES for text in ("--set", change)]


def make_workspace(folder: Path) -> Path:
    save_brightness_splits(folder / "artifacts/splits.safetensors", 200, 60, 50)
    (folder / "recipes").mkdir()
    shutil.copy(PARAMS_FILE, folder)
    for name in ("dvc.yaml", "recipes/talk.yaml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def run_search(folder: Path, **options: Any) -> dict[str, Any]:
    state = search(
        SPACE,
        **{"num_trials": 5, "batch": 3} | options,
        overrides=parse_overrides(OVERRIDES),
        workspace=folder,
        return_state=True,
    )
    assert state.is_completed(), state.message
    return json.loads((folder / "reports/search.json").read_text())


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:
    """After a search with one worker."""
    folder = make_workspace(tmp_path_factory.mktemp("search"))
    run_search(folder)
    return folder


@pytest.fixture(scope="module")
def result(workspace: Path) -> dict[str, Any]:
    return json.loads((workspace / "reports/search.json").read_text())


@pytest.mark.slow
def test_search_writes_the_best_trial_as_a_recipe_that_run_takes(
    workspace: Path, result: dict[str, Any]
) -> None:
    best = max(result["trials"], key=lambda trial: (trial["val_accuracy"], -trial["number"]))
    assert result["best"] == best["number"]
    overrides = read_recipe("found", workspace / "recipes")
    config = with_overrides(read_params(PARAMS_FILE), overrides).train
    assert (config.lr, config.optimizer) == (best["values"]["lr"], best["values"]["optimizer"])
    assert config.epochs == 3
    assert 0 <= result["test_accuracy"] <= 1
    assert (workspace / "reports/search.svg").read_text().startswith("<svg")
    assert read_params(workspace / "params.yaml") == read_params(PARAMS_FILE)
    kept = [file.parent.name for file in workspace.rglob("model.safetensors")]
    assert kept == []


@pytest.mark.slow
def test_search_once_more_trains_nothing(workspace: Path, result: dict[str, Any]) -> None:
    logs = {file: file.read_bytes() for file in workspace.rglob("log.txt")}
    assert run_search(workspace) == result
    assert {file: file.read_bytes() for file in workspace.rglob("log.txt")} == logs


@pytest.mark.distributed
@pytest.mark.slow
def test_search_that_was_killed_goes_on_with_two_workers_and_gives_the_same(
    tmp_path: Path, result: dict[str, Any]
) -> None:
    folder = make_workspace(tmp_path)
    over = [text for values in SPACE for text in ("--over", values)]
    command = [str(Path(sys.executable).with_name("cifarflow")), "-C", str(folder), "search", *over, *OPTIONS]
    process = subprocess.Popen(
        [*command, "--trials", "5", "--batch", "3"],
        env=os.environ | {"PREFECT_API_URL": str(get_current_settings().api.url)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("artifacts/search/*/trial-1/log.txt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert run_search(folder, jobs=2) == result


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_search_with_pruning_stops_the_worse_trials_early(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path)
    result = run_search(folder, num_trials=4, batch=4, prune=True, sampler="random")
    states = [trial["state"] for trial in result["trials"]]
    assert sorted(states) == ["complete", "complete", "pruned", "pruned"]
    epochs = [len(re.findall("^epoch ", file.read_text(), re.MULTILINE)) for file in folder.rglob("log.txt")]
    assert sorted(epochs) == [1, 1, 3, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to search"),
        (["--over", "train.lr=0..1"], "train.lr should be a number greater than 0"),
        (["--over", "train.lr=log:0.1..0.2", "--sampler", "grid"], "a grid needs a list of values"),
    ],
)
@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_search_command_rejects_what_cannot_be_searched_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(make_workspace(tmp_path))
    assert run_command(["search", *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not Path("artifacts/search").exists()
