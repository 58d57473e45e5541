"""Describe what a benchmark ran on: CPU, versions of packages, load by other processes."""

import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "torch", "openvino", "numpy")
# Libraries choose their kernels by these vector instructions.
CPU_FLAG_PREFIXES = ("sse4_2", "f16c", "fma", "avx", "amx", "asimd", "sve", "bf16")


class BackgroundLoad:
    """The share of the CPU that other processes use, measured from this object's creation."""

    def __init__(self) -> None:
        self._start = self._read_times()

    def percent(self) -> float:
        """Return the share so far, in percent of all cores."""
        times = zip(self._read_times(), self._start, strict=True)
        busy, own, wall = (now - before for now, before in times)
        return round(max(0.0, 100 * (busy - own) / (wall * (os.cpu_count() or 1))), 1)

    def _read_times(self) -> tuple[float, float, float]:
        machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        return (
            sum(machine[:8]) - idle,  # On Linux the rest is guest time, which is part of the first eight.
            own.user + own.system + own.children_user + own.children_system,
            time.perf_counter(),
        )


def describe_environment(threads: Sequence[int]) -> dict[str, Any]:
    """Describe the machine and the versions of the packages for benchmark.json."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    name, flags = _describe_cpu()
    return {
        "cpu": name,
        "flags": flags,
        "cores": os.cpu_count(),
        "threads": list(threads),
        "versions": versions,
    }


def _describe_cpu() -> tuple[str, list[str]]:
    """Return the name of the CPU, and those of its flags that begin with `CPU_FLAG_PREFIXES`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # Only Linux has this file.
        return platform.processor() or platform.machine(), []
    info = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = info.get("flags", info.get("Features", "")).split()
    return info.get("model name", platform.machine()), [
        flag for flag in flags if flag.startswith(CPU_FLAG_PREFIXES)
    ]
