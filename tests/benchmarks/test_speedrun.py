"""benchmarks/speedrun.py, tried without a GPU and with a script that only prints as the known ones do."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Generator, Tensor

from tasks.workspace.splits import save_tensors
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import torch

def main(run):
    data = torch.load("cifar10/train.pt", weights_only=True)
    assert data["images"].shape == (50, 32, 32, 3) and data["labels"].shape == (50,)
    for epoch in range(2):
        print("|  %6s  |  %5d  |     0.9000  |   0.8000  |                |                |" % (run, epoch))
        run = ""
    print("|          |   eval  |     0.9100  |   0.8100  |       0.9400  |        2.5000  |")

if __name__ == "__main__":
    main("warmup")
    for run in range(200):
        main(run)
"""
HIVERGE = (
    "|  warmup  |   eval  |     0.1111  |   0.0978  |       0.0963  |       40.5124  |\n"
    "|       1  |   eval  |     0.9875  |   0.9314  |       0.9401  |        2.0133  |\n"
    "Mean accuracy after 1 runs: 0.940100 | Mean time: 2.013260s\r"
    "|       2  |   eval  |     0.9873  |   0.9346  |       0.9407  |        2.0140  |\n"
)


@pytest.fixture(scope="module")
def speedrun() -> ModuleType:
    spec = importlib.util.spec_from_file_location("speedrun", ROOT / "benchmarks" / "speedrun.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["speedrun"] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    generator = Generator().manual_seed(2)
    tensors: dict[str, Tensor] = {}
    for name, count in (("train", 40), ("val", 10), ("test", 10)):
        shape = (count, 32, 32, 3)
        tensors[f"{name}_images"] = torch.randint(256, shape, generator=generator).to(torch.uint8)
        tensors[f"{name}_labels"] = torch.arange(count) % 10
    classes = [f"class {i}" for i in range(10)]
    metadata = {
        "dataset": "sample",
        "classes": classes,
        "data_md5": "a",
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    save_tensors(tmp_path / "splits.safetensors", tensors, metadata)
    return tmp_path / "splits.safetensors"


def test_main_reports_recipe_and_script_in_one_table(
    speedrun: ModuleType, splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "other.py"
    script.write_text(SCRIPT)
    arguments = ["--device", "cpu", "--runs", "2", "--splits", str(splits), "--against", str(script)]
    speedrun.main([*arguments, "--set", "train.epochs=1", "train.batch_size=20", "train.precision=32-true"])
    lines = capsys.readouterr().out.splitlines()
    (ours,) = (line for line in lines if line.startswith("| fast94 | 2 |"))
    (other,) = (line for line in lines if line.startswith("| other.py | 2 |"))
    assert "in all" not in ours
    assert "| 94.00% ± 0.00% | in all | in all | in all | 2.500 |" in other


def test_parse_output_skips_warm_ups(speedrun: ModuleType) -> None:
    assert list(speedrun.parse_output(HIVERGE)) == [(0.9401, 2.0133), (0.9407, 2.0140)]


def test_run_script_of_an_unknown_script_raises(speedrun: ModuleType, splits: Path, tmp_path: Path) -> None:
    script = tmp_path / "other.py"
    for text, message in (
        ("print(1)", "not one of the supported scripts"),
        ("for run in range(200): raise SystemExit('no GPU')", "ended with 0 of 1 runs: no GPU"),
    ):
        script.write_text(text)
        with pytest.raises(speedrun.RunError, match=message):
            speedrun.run_script(speedrun.Measurements(), script, speedrun.load_splits(splits), 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_main_without_cuda_exits_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "speedrun.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == ("PyTorch finds no CUDA device; --device cpu tries this script without one\n")
