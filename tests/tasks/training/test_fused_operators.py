import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tasks.params.train import TrainConfig
from tasks.train import train
from tasks.training import fused_operators
from tasks.training.fused_operators import find_compiler, load_operators, resolve_fused
from tasks.workspace.errors import InputError
from tasks.workspace.splits import load_tensors
from tests.brightness import AIRBENCH94, build_config, save_brightness_splits
from tests.conftest import ROOT

CPU = torch.device("cpu")
LOAD = "from tasks.training.fused_operators import load_operators; load_operators()"
needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")


@pytest.fixture
def not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that begins."""
    monkeypatch.setattr(fused_operators, "_is_loaded", lambda: False)


def run_python(code: str, **env: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout


def write_compiler(file: Path, script: str) -> str:
    file.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


@needs_compiler
def test_operators_are_compiled_once(tmp_path: Path) -> None:
    env = {"CIFARFLOW_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin"}
    assert run_python(LOAD, **env).startswith("compiled models/fused_net.cpp in ")
    assert run_python(LOAD, **env) == ""
    (library,) = (tmp_path / "operators").iterdir()
    assert library.suffix == ".so"


@needs_compiler
def test_cache_that_cannot_be_written_is_not_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    env = {"CIFARFLOW_CACHE": str(tmp_path / "file"), "PATH": "/usr/bin:/bin"}
    assert run_python(LOAD, **env).startswith("compiled")


@needs_compiler
def test_operators_of_another_cache_are_not_loaded_beside_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_operators()
    monkeypatch.setenv("CIFARFLOW_CACHE", str(tmp_path))
    load_operators()
    assert not list(tmp_path.iterdir())


@needs_compiler
def test_net_in_float32_on_a_cpu_is_fused() -> None:
    assert resolve_fused(build_config(fused="auto"), CPU)
    assert resolve_fused(build_config(fused=True), CPU)
    assert not resolve_fused(build_config(fused=False), CPU)


def test_other_trainings_are_not_fused() -> None:
    assert not resolve_fused(build_config(**AIRBENCH94), CPU)
    assert not resolve_fused(build_config(precision="bf16-mixed"), CPU)
    assert not resolve_fused(build_config(), torch.device("cuda"))
    with pytest.raises(InputError, match="needs network net"):
        resolve_fused(build_config(fused=True), torch.device("cuda"))


@pytest.mark.parametrize("changes", [{"network": "airbench94"}, {"precision": "bf16-mixed"}])
def test_fused_is_refused_for_what_it_cannot_train(changes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="fused needs network net"):
        TrainConfig.model_validate(build_config().model_dump() | {"fused": True} | changes)


@pytest.mark.usefixtures("not_loaded")
def test_without_a_compiler_pytorch_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert not resolve_fused(build_config(fused="auto"), CPU)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("no C++ compiler was found")
    with pytest.raises(InputError, match=r"train\.fused is true, but no"):
        resolve_fused(build_config(fused=True), CPU)


@pytest.mark.usefixtures("not_loaded")
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'x.cpp:1: error: no such type' >&2; echo note >&2; exit 1", "x.cpp:1: error: no such type"),
        ("exit 1", "it said nothing"),
        (r"while [ $# -gt 1 ]; do [ $1 = -o ] && echo none > $2; shift; done", "cannot be loaded"),
    ],
)
def test_compiler_that_fails_is_one_line(
    script: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CXX", write_compiler(tmp_path / "compiler", script))
    monkeypatch.setenv("CIFARFLOW_CACHE", str(tmp_path / "cache"))
    assert not resolve_fused(build_config(fused="auto"), CPU)
    assert reason in capsys.readouterr().out.splitlines()[-1]


@needs_compiler
def test_training_is_the_same_up_to_rounding_and_says_which_it_was(tmp_path: Path) -> None:
    splits = save_brightness_splits(tmp_path / "splits.safetensors")
    histories = {}
    for fused in (False, True):
        weights, history = tmp_path / "model.safetensors", tmp_path / "history.csv"
        train(splits, weights, history, build_config(epochs=2, fused=fused))
        _, metadata = load_tensors(weights)
        assert metadata["fused"] is fused
        rows = history.read_text(encoding="utf-8").splitlines()[1:]
        histories[fused] = [[float(value) for value in row.split(",")] for row in rows]
    torch.testing.assert_close(
        torch.tensor(histories[True]), torch.tensor(histories[False]), rtol=1e-3, atol=1e-3
    )
