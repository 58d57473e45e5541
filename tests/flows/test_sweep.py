import json
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import run_command
from flows.sweep import sweep, sweep_markdown
from tasks.overrides import parse_overrides, with_overrides
from tasks.params import read_params
from tasks.workspace.errors import InputError
from tests.brightness import save_brightness_splits
from tests.shipped_params import PARAMS_FILE


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_sweep_flow_does_not_touch_the_pipelines_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_brightness_splits(Path("artifacts/splits.safetensors"), 200, 60, 50)
    Path("params.yaml").write_bytes((PARAMS_FILE).read_bytes())
    before = {file: file.read_bytes() for file in Path().rglob("*") if file.is_file()}
    overrides = parse_overrides(["train.epochs=1", "train.device=cpu", "train.num_threads=1"])
    state = sweep(num_seeds=2, overrides=overrides, return_state=True)
    assert state.is_completed()
    assert "mean of 2 seeds" in str(state.message)
    assert {file: file.read_bytes() for file in before} == before
    result = json.loads(Path("reports/sweep.json").read_text())
    assert result["train"]["epochs"] == 1
    assert sorted(file.name for file in Path("artifacts").iterdir()) == ["splits.safetensors", "sweep"]


def test_sweep_markdown_has_a_row_per_seed_and_the_statistics() -> None:
    statistics = {"mean": 0.5, "std": 0.01, "sem": 0.002}
    result: dict[str, Any] = {
        "dataset": "sample",
        "seeds": [{"seed": 3, "val_accuracy": 0.51, "test_accuracy": 0.49, "training_s": 1.25}],
        "val_accuracy": statistics,
        "test_accuracy": statistics,
        "train": {"network": "net"},
    }
    lines = sweep_markdown(result).splitlines()
    assert lines[0] == "# 1 seeds of net on a generated sample, not CIFAR-10"
    assert lines[4:] == [
        "| 3 | 51.00% | 49.00% | 1.2 |",
        "| mean | 50.00% | 50.00% | |",
        "| standard deviation | 1.00% | 1.00% | |",
        "| standard error | 0.20% | 0.20% | |",
    ]
    assert sweep_markdown(result | {"dataset": "CIFAR-10"}).startswith("# 1 seeds of net on CIFAR-10\n")


@pytest.mark.parametrize("arguments", [["--seeds", "1"], ["--jobs", "0"], ["--recipe", "x"]])
def test_sweep_command_rejects_wrong_options_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run_command(["sweep", *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_with_overrides_changes_no_file() -> None:
    params = read_params(PARAMS_FILE)
    assert with_overrides(params, parse_overrides(["train.epochs=77"])).train.epochs == 77
    assert read_params(PARAMS_FILE) == params
    with pytest.raises(InputError, match=r"leaves nothing of|must be smaller than epochs"):
        with_overrides(params, parse_overrides(["train.warmup_epochs=24.0"]))
