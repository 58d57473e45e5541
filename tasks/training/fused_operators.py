"""The operators of `FusedNet`: C++, compiled once per machine, or where compiler, CPU or PyTorch changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tasks.workspace.code import ROOT
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import atomic_write, cache_folder

if TYPE_CHECKING:
    from tasks.params.train import TrainConfig

SOURCE = ROOT / "models" / "fused_net.cpp"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ["-std=c++17", "-O3", "-march=native"]
ABI = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]  # PyTorch's stable ABI as of 2.11, the oldest supported


class BuildError(RunError):
    """There is no compiler, or it failed."""


def resolve_fused(config: TrainConfig, device: torch.device) -> bool:
    """Whether a training uses `FusedNet`, whose operators are then loaded.

    Where they cannot be compiled, one line says so if `train.fused` is `auto`; `InputError` if it is `true`.
    """
    is_supported = config.can_be_fused and device.type == "cpu"
    if config.fused is False or (config.fused == "auto" and not is_supported):
        return False
    if not is_supported:
        raise InputError("train.fused is true, which needs network net, precision 32-true and a CPU")
    try:
        load_operators()
    except BuildError as error:
        if config.fused is True:
            raise InputError(f"train.fused is true, but {error}; set it to auto or false") from None
        print(f"{error}; training by PyTorch's own operators takes about twice as long")
        return False
    return True


def load_operators() -> None:
    """Compile them, if that was not done before, and load them into PyTorch. `BuildError` if it fails."""
    if _is_loaded():  # a second library of the same operators, from another cache, would end the process
        return
    compiler = find_compiler()
    if compiler is None:
        raise BuildError("no C++ compiler was found (CXX, c++, g++ or clang++)")
    library = cache_folder() / "operators" / f"fused_net-{_cache_key(compiler)}.so"
    if not library.is_file():
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder) / library.name
            _compile(compiler, built)
            try:
                with atomic_write(library) as temp_path:
                    shutil.copyfile(built, temp_path)
            except RunError:  # a home that cannot be written: compiled each time
                _load(built)
                return
    _load(library)


def _is_loaded() -> bool:
    return hasattr(torch.ops.cifarflow, "conv_pool_relu")


def find_compiler() -> str | None:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    return next(filter(None, map(shutil.which, names)), None)


def _cache_key(compiler: str) -> str:
    """Of what the library follows from; the predefined macros tell the compiler's version and its target."""
    macros = _run([compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull])
    inputs = [SOURCE.read_bytes(), macros.encode(), torch.__version__.encode(), *(f.encode() for f in ABI)]
    return hashlib.sha256(b"\0".join(inputs)).hexdigest()[:16]


def _compile(compiler: str, library: Path) -> None:
    began = time.perf_counter()
    package = Path(torch.__file__).parent
    paths = [f"-I{package / 'include'}", f"-L{package / 'lib'}", f"-Wl,-rpath,{package / 'lib'}"]
    _run([compiler, *FLAGS, *ABI, "-shared", "-fPIC", str(SOURCE), "-o", str(library), *paths, "-ltorch_cpu"])
    print(f"compiled {SOURCE.relative_to(ROOT)} in {time.perf_counter() - began:.1f} s")


def _run(command: list[str]) -> str:
    process = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    if process.returncode:
        lines = [line for line in process.stderr.splitlines() if "error" in line] or ["it said nothing"]
        raise BuildError(f"{command[0]} cannot compile {SOURCE.relative_to(ROOT)}: {lines[0].strip()}")
    return process.stdout


def _load(library: Path) -> None:
    try:
        torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise BuildError(f"{library} cannot be loaded: {error}") from None
