"""`compile_network` makes a network train fast: by its own operators in C++, or by `torch.compile`.

The operators are compiled once per machine, compiler, CPU and PyTorch.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from models.hooks import get_hooks
from tasks.workspace.code import ROOT
from tasks.workspace.errors import InputError, RunError, describe_os_error
from tasks.workspace.files import check_private, hash_file, open_cache_or_temporary, open_private_cache

if TYPE_CHECKING:
    from torch import nn

    from tasks.params.train import TrainConfig

SOURCE = ROOT / "models" / "fused_net.cpp"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ["-std=c++17", "-O3", "-march=native"]
ABI = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]  # PyTorch's stable ABI as of 2.11, the oldest supported
TIMEOUT_S = 600  # for a compilation
COMPILE_MODE = "max-autotune"  # measures which kernel is fastest for each product, and records a CUDA graph


class BuildError(RunError):
    """The operators cannot be built: there is no compiler, or it failed."""


@dataclass(frozen=True)
class Machine:
    """A machine is what the bytes of a training depend on besides code, data, parameters and PyTorch."""

    device: str
    """cpu or cuda"""
    fused: bool
    """whether operators in C++ train the networks that have such operators"""

    def __str__(self) -> str:
        return f"{self.device} {'with' if self.fused else 'without'} operators in C++"

    def resolve(self, config: TrainConfig) -> TrainConfig:
        """Say what `auto` means here, so that a machine on which it would mean something else fails."""
        device = self.device if config.device == "auto" else config.device
        fused = config.fused
        if fused == "auto":
            fused = self.fused and device == "cpu" and config.has_fast_path
        return config.model_copy(update={"device": device, "fused": fused})


def resolve_machine(config: TrainConfig) -> Machine:
    """Say on what a training would run here; if operators in C++ train the network, they are compiled now.

    If they cannot be compiled, a line says so where `train.fused` is `auto`; `InputError` where it is `true`.
    """
    device = resolve_device(config.device)
    is_supported = config.has_fast_path and device == "cpu"
    if config.fused is False or (config.fused == "auto" and not is_supported):
        return Machine(device, fused=False)
    if not is_supported:
        raise InputError("train.fused is true, which needs a CPU; set it to auto or false")
    try:
        load_operators()
    except BuildError as error:
        if config.fused is True:
            raise InputError(f"train.fused is true, but {error}; set it to auto or false") from None
        print(f"{error}; training by PyTorch's own operators takes about twice as long")
        return Machine(device, fused=False)
    return Machine(device, fused=True)


def resolve_device(name: str) -> str:
    """Return the device for `train.device`; `auto` is CUDA if available. `InputError` if `cuda` is not."""
    is_available = torch.cuda.is_available()
    if name == "cuda" and not is_available:
        raise InputError("train.device is cuda, but PyTorch finds no CUDA device; set it to auto or cpu")
    return "cuda" if is_available and name != "cpu" else "cpu"


def compile_network(network: nn.Module, machine: Machine, *, compiled: bool) -> nn.Module:
    """Return a module that trains the parameters of `network`, faster where it can.

    If the machine says so, it is the network's own fast path, with `compiled` a result of `torch.compile`,
    and else `network` itself.
    """
    if machine.fused:
        load_operators()
        fused = get_hooks(network).fuse()
        assert fused is not None
        return fused
    if not compiled:
        return network
    keep_inductor_cache_private()
    return torch.compile(network, mode=COMPILE_MODE, dynamic=False)  # type: ignore[return-value]


def keep_inductor_cache_private() -> None:
    """Have `torch.compile` keep compiled code in a private folder, unless `TORCHINDUCTOR_CACHE_DIR` is set.

    PyTorch's default is a folder in the temporary directory whose name anybody can predict, so another user
    could create it first, and the code in it would run.
    """
    if not os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(open_cache_or_temporary("inductor"))


def load_operators() -> None:
    """Load the operators into PyTorch; compile them if no earlier run did. `BuildError` if it fails."""
    if _is_loaded():  # loading a second library with the same operators would end the process
        return
    compiler = find_compiler()
    if compiler is None:
        cxx = os.environ.get("CXX", "").strip()
        raise BuildError(f"CXX names no program: {cxx!r}" if cxx else "no C++ compiler was found")
    name = f"fused_net-{_cache_key(compiler)}"
    try:
        _load(_find_or_compile(open_private_cache("operators"), name, compiler))
    except BuildError:
        raise
    except RunError as error:
        print(f"{error}; so the C++ operators are compiled for this run alone")
        try:
            with tempfile.TemporaryDirectory() as folder:
                check_private(Path(folder))
                _load(_find_or_compile(Path(folder), name, compiler))
        except RunError as without_cache:
            raise BuildError(str(without_cache)) from None


def _is_loaded() -> bool:
    return hasattr(torch.ops.cifarflow, "conv_pool_relu")


def find_compiler() -> list[str] | None:
    """Return the command in `CXX`, with its arguments (`ccache g++`), or the first compiler installed.

    None if there is no such program.
    """
    cxx = os.environ.get("CXX", "").strip()
    if not cxx:
        return next(([found] for found in map(shutil.which, COMPILERS) if found), None)
    try:
        command = [cxx] if shutil.which(cxx) else shlex.split(cxx)
    except ValueError:  # a quotation mark without its counterpart
        return None
    return command if shutil.which(command[0]) else None


def _cache_key(compiler: list[str]) -> str:
    """Hash all that the library depends on: source, compiler, flags, CPU and PyTorch."""
    # The predefined macros name the compiler's version and, with -march=native, the CPU's instruction sets.
    macros = _run([*compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull])
    inputs = [SOURCE.read_bytes(), *(text.encode() for text in (macros, torch.__version__, *FLAGS, *ABI))]
    inputs += [word.encode() for word in compiler]
    return hashlib.sha256(b"\0".join(inputs)).hexdigest()[:16]


def _find_or_compile(folder: Path, name: str, compiler: list[str]) -> Path:
    """Return the library `name` in a private folder; compile it if it is missing or damaged.

    The file name of a library ends in its SHA-256, by which it is verified.
    """
    try:
        for library in folder.glob(f"{name}-*.so"):
            if _is_intact(library):
                return library
            print(f"{library} is damaged or not safe to load; it is compiled again")
            library.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temp_folder:
            built = Path(temp_folder) / "fused_net.so"
            _compile(compiler, built)
            built.chmod(0o700)  # private under any umask
            return built.replace(folder / f"{name}-{hash_file(built, 'sha256')}.so")
    except OSError as error:
        raise RunError(describe_os_error(error)) from error


def _is_intact(library: Path) -> bool:
    """Whether the library is what was compiled. Loading a truncated library would end the process."""
    try:
        check_private(library)
        return library.is_file() and library.stem.endswith(f"-{hash_file(library, 'sha256')}")
    except (RunError, OSError):
        return False


def _compile(compiler: list[str], library: Path) -> None:
    began = time.perf_counter()
    package = Path(torch.__file__).parent
    paths = [f"-I{package / 'include'}", f"-L{package / 'lib'}", f"-Wl,-rpath,{package / 'lib'}"]
    command = [
        *compiler,
        *FLAGS,
        *ABI,
        "-shared",
        "-fPIC",
        str(SOURCE),
        "-o",
        str(library),
        *paths,
        "-ltorch_cpu",
    ]
    _run(command, TMPDIR=str(library.parent))  # nobody else can change what the compiler writes there
    print(f"compiled {SOURCE.relative_to(ROOT)} in {time.perf_counter() - began:.1f} s")


def _run(command: list[str], **env: str) -> str:
    """Run the compiler and return what it prints. `BuildError` with its first error if it fails."""
    try:
        process = subprocess.run(  # noqa: S603
            command,
            env=os.environ | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error.strerror or error}") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"{command[0]} does not end within {TIMEOUT_S} s") from None
    if process.returncode:
        said = [line.strip() for line in process.stderr.splitlines() if line.strip()]
        reasons = [line for line in said if "error" in line] or said[-1:] or ["it said nothing"]
        raise BuildError(f"{command[0]} cannot compile {SOURCE.relative_to(ROOT)}: {reasons[0]}")
    return process.stdout


def _load(library: Path) -> None:
    try:
        torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    except OSError as error:
        with suppress(OSError):  # without the file, the next run compiles it again
            library.unlink()
        raise RunError(f"{library} cannot be loaded: {error}") from None
