import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.hooks import get_hooks
from models.networks import NETWORKS, build_network
from tasks.params.networks import FUSED_NETWORKS, WHITENED_NETWORKS
from tasks.params.train import TrainConfig
from tasks.train import train
from tasks.training import compile as compile_module
from tasks.training.compile import (
    BuildError,
    Machine,
    find_compiler,
    load_operators,
    resolve_device,
    resolve_machine,
)
from tasks.workspace.errors import InputError
from tasks.workspace.splits import load_tensors
from tests.brightness import AIRBENCH94, build_config, save_brightness_splits
from tests.conftest import ROOT

LOAD = "from tasks.training.compile import load_operators; load_operators()"
# Of a compiler that copies its source to where its output should be.
COPY = f"while [ $# -gt 1 ]; do [ $1 = -o ] && cp {compile_module.SOURCE} $2; shift; done"
needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")


@pytest.fixture
def not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that begins."""
    monkeypatch.setattr(compile_module, "_is_loaded", lambda: False)


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
    reason, compiled = run_python(LOAD, **env).splitlines()
    assert reason.endswith("so the C++ operators are compiled for this run alone")
    assert compiled.startswith("compiled models/fused_net.cpp in ")


@needs_compiler
@pytest.mark.parametrize("damage", ["truncated", "another user's", "replaced, in a shared folder"])
def test_library_that_is_not_what_was_compiled_is_never_loaded(
    tmp_path: Path, other_uid: int, damage: str
) -> None:
    """Really: loading a truncated library ends a process by SIGBUS, and a strange one's constructor runs."""
    env = {"CIFARFLOW_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin"}
    run_python(LOAD, **env)
    (library,) = (tmp_path / "operators").iterdir()
    content = library.read_bytes()
    if damage == "truncated":
        os.truncate(library, 1000)
    else:
        source, proof = tmp_path / "strange.c", tmp_path / "proof"
        source.write_text(
            "#include <stdio.h>\n"
            f'__attribute__((constructor)) void run(void) {{ fclose(fopen("{proof}", "w")); }}',
            encoding="utf-8",
        )
        subprocess.run(["c++", "-shared", "-fPIC", source, "-o", library], check=True)
        if damage == "another user's":
            os.chown(library, other_uid, -1)
            library.chmod(0o777)
        else:
            library.parent.chmod(0o777)
    lines = run_python(LOAD, **env).splitlines()
    assert len(lines) == 2
    assert lines[-1].startswith("compiled models/fused_net.cpp in ")
    assert not (tmp_path / "proof").exists()
    if damage != "replaced, in a shared folder":
        assert library.read_bytes() == content
        assert library.stat().st_uid == os.geteuid()
        assert run_python(LOAD, **env) == ""


@pytest.fixture
def loaded(not_loaded: None, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The libraries that would have been loaded."""
    libraries: list[Path] = []
    monkeypatch.setattr(compile_module, "_load", libraries.append)
    return libraries


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with the library of a compiler that copies its source."""
    monkeypatch.setenv("CIFARFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", write_compiler(tmp_path / "compiler", COPY))
    return tmp_path / "cache" / "operators"


def truncate(library: Path) -> None:
    os.truncate(library, 64)


def change_a_byte(library: Path) -> None:
    content = library.read_bytes()
    library.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def replace_by_link(library: Path) -> None:
    moved = library.rename(library.with_name("moved"))
    moved.chmod(0o666)
    library.symlink_to(moved)


def replace_by_fifo(library: Path) -> None:
    library.unlink()
    os.mkfifo(library)


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        lambda library: os.truncate(library, 0),
        change_a_byte,
        lambda library: library.chmod(0o666),
        lambda library: library.chmod(0o620),
        replace_by_link,
        replace_by_fifo,
    ],
)
def test_damaged_library_is_compiled_again(
    cache: Path, loaded: list[Path], damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        load_operators()
    (library,) = cache.iterdir()
    assert loaded == [library, library]
    damage(library)
    capsys.readouterr()
    load_operators()
    assert capsys.readouterr().out.splitlines()[0].startswith(f"{library} is damaged or not safe to load")
    assert loaded[-1] == library
    assert library.read_bytes() == compile_module.SOURCE.read_bytes()
    assert not library.is_symlink()


def test_folder_in_the_place_of_a_library_is_left_alone(cache: Path, loaded: list[Path]) -> None:
    load_operators()
    (library,) = cache.iterdir()
    library.unlink()
    (library / "precious").mkdir(parents=True)
    load_operators()
    assert (library / "precious").is_dir()
    assert loaded[-1].parent != cache


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_compiled_library_can_be_changed_by_its_user_alone(
    cache: Path, loaded: list[Path], umask: int
) -> None:
    before = os.umask(umask)
    try:
        load_operators()
    finally:
        os.umask(before)
    (library,) = cache.iterdir()
    assert not library.stat().st_mode & 0o022
    load_operators()
    assert loaded == [library, library]


def test_library_follows_from_the_flags(
    cache: Path, loaded: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load_operators()
    monkeypatch.setattr(compile_module, "FLAGS", [*compile_module.FLAGS, "-ffp-contract=off"])
    load_operators()
    monkeypatch.setenv("CXX", f"{tmp_path / 'compiler'} -fno-tree-vectorize")
    load_operators()
    assert len(set(loaded)) == 3


def test_nothing_is_loaded_where_even_the_temporary_folder_is_not_safe(
    cache: Path, loaded: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shared in (cache, tmp_path / "temporary"):
        shared.mkdir(parents=True)
        shared.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with pytest.raises(BuildError, match=f"other users can write to {tmp_path / 'temporary'}"):
        load_operators()
    assert not loaded


@needs_compiler
@pytest.mark.parametrize("cxx", ["{wrapper} {compiler}", "{compiler} -pipe", "{folder}/my tools/c++", "  "])
def test_compiler_may_be_several_words(
    tmp_path: Path, loaded: list[Path], monkeypatch: pytest.MonkeyPatch, cxx: str
) -> None:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    wrapper = write_compiler(tmp_path / "ccache", 'exec "$@"')
    (tmp_path / "my tools").mkdir()
    write_compiler(tmp_path / "my tools" / "c++", f'exec {compiler} "$@"')
    monkeypatch.setenv("CIFARFLOW_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", cxx.format(wrapper=wrapper, compiler=compiler, folder=tmp_path))
    load_operators()
    assert loaded[0].read_bytes().startswith(b"\x7fELF")


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
    assert resolve_machine(build_config(fused="auto")) == Machine("cpu", fused=True)
    assert resolve_machine(build_config(fused=True)).fused
    assert not resolve_machine(build_config(fused=False)).fused


def test_other_trainings_are_not_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not resolve_machine(build_config(**AIRBENCH94)).fused
    assert not resolve_machine(build_config(precision="bf16-mixed")).fused
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_machine(build_config(device="auto")) == Machine("cuda", fused=False)
    with pytest.raises(InputError, match="needs a CPU"):
        resolve_machine(build_config(device="cuda", fused=True))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_parameters_know_which_networks_have_operators_and_which_a_whitening_layer(name: str) -> None:
    hooks = get_hooks(build_network(name, 10, 32))
    assert (hooks.fuse() is not None) == (name in FUSED_NETWORKS)
    assert bool(hooks.early_parameters()) == (name in WHITENED_NETWORKS)


@pytest.mark.parametrize(
    ("name", "is_available", "expected"),
    [("cpu", True, "cpu"), ("auto", False, "cpu"), ("auto", True, "cuda"), ("cuda", True, "cuda")],
)
def test_resolve_device_prefers_cuda_unless_cpu_is_configured(
    monkeypatch: pytest.MonkeyPatch, name: str, *, is_available: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_available)
    assert resolve_device(name) == expected


def test_resolve_device_rejects_cuda_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="PyTorch finds no CUDA device; set it to auto or cpu"):
        resolve_device("cuda")


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
    assert not resolve_machine(build_config(fused="auto")).fused
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("no C++ compiler was found")
    for cxx in ("ccache g++", "g++ 'unfinished", "/nowhere/g++"):
        monkeypatch.setenv("CXX", cxx)
        assert not resolve_machine(build_config(fused="auto")).fused
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("CXX names no program: ")
    monkeypatch.delenv("CXX")
    with pytest.raises(InputError, match=r"train\.fused is true, but no"):
        resolve_machine(build_config(fused=True))


@pytest.mark.usefixtures("not_loaded")
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'x.cpp:1: error: no such type' >&2; echo note >&2; exit 1", "x.cpp:1: error: no such type"),
        ("exit 1", "it said nothing"),
        ("echo 'g++: fatal' >&2; exit 4", "g++: fatal"),
        ("kill -9 $$", "it said nothing"),
        ("", "fused_net.so: No such file or directory"),
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
    assert not resolve_machine(build_config(fused="auto")).fused
    assert reason in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.usefixtures("not_loaded")
def test_compiler_that_cannot_be_started_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_bytes(b"\0\0")
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    assert not resolve_machine(build_config(fused="auto")).fused
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{compiler} cannot be run: Exec format error")


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
