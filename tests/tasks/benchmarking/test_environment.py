import os
import platform
from pathlib import Path

import pytest

from tasks.benchmarking import environment
from tasks.benchmarking.environment import BackgroundLoad, describe_environment


def test_describe_environment_names_cpu_and_versions() -> None:
    description = describe_environment([1, 2])
    assert (description["cores"], description["threads"]) == (os.cpu_count(), [1, 2])
    assert {"python", "onnxruntime", "torch", "numpy"} <= description["versions"].keys()
    assert "onnxruntime-gpu" not in description["versions"]


def test_describe_environment_keeps_flags_that_choose_kernels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: A CPU\nflags\t\t: fpu avx2 avx512_vnni tsc amx_int8\n")
    monkeypatch.setattr(environment, "Path", lambda _: tmp_path / "cpuinfo")
    description = describe_environment([1])
    assert (description["cpu"], description["flags"]) == ("A CPU", ["avx2", "avx512_vnni", "amx_int8"])


def test_describe_environment_without_proc_cpuinfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "Path", lambda _: tmp_path / "none")
    description = describe_environment([1])
    assert (description["cpu"], description["flags"]) == (platform.processor() or platform.machine(), [])


def test_background_load_is_the_share_of_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: of 2 s on 4 cores, all processes took 5 s and this one 3 s: 2 of 8."""
    times = iter([(100.0, 10.0, 50.0), (105.0, 13.0, 52.0)])
    monkeypatch.setattr(BackgroundLoad, "_read_times", lambda _: next(times))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert BackgroundLoad().percent() == 25.0
