"""Standard streams that are closed, full, end early or have another encoding."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT, copy_of_project

pytestmark = pytest.mark.slow

CIFARFLOW = shlex.join([sys.executable, "-c", "from flows.cli.main import main; main()"])


@pytest.fixture(scope="module")
def project(small_run: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_of_project(tmp_path_factory.mktemp("streams"))
    (folder / "artifacts").mkdir()
    model = Path(small_run.paths.onnx_model)  # type: ignore[attr-defined]
    (folder / "artifacts" / "model.onnx").write_bytes(model.read_bytes())
    for name in ("a.png", "cätchen.png"):
        Image.new("RGB", (40, 30), "red").save(folder / name)
    return folder


def run_shell(project: Path, command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", command],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        ("predict - <&-", 2, "standard input is closed"),
        ("predict - </dev/null", 1, "not an image"),
        ("predict a.png >&-", 2, "standard output is closed"),
        ("predict a.png >/dev/full", 1, "No space left on device"),
        ("predict a.png --json >/dev/full", 1, "No space left on device"),
        ("--help >/dev/full", 1, "No space left on device"),
        ("toys >/dev/full", 1, "No space left on device"),
    ],
)
def test_command_with_a_broken_stream_prints_one_line(
    project: Path, redirection: str, code: int, message: str
) -> None:
    done = run_shell(project, f"{CIFARFLOW} {redirection}")
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("by ")]
    assert message in lines[0]
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_predict_into_a_pipe_that_ends_early_is_quiet(project: Path) -> None:
    done = run_shell(project, f"{CIFARFLOW} predict {'a.png ' * 300} | head -n 1")
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr


def test_predict_with_an_encoding_that_lacks_a_letter_escapes_it(project: Path) -> None:
    done = run_shell(project, f"{CIFARFLOW} predict cätchen.png", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert "c\\xe4tchen.png" in done.stdout


def test_command_in_a_directory_that_was_removed_says_so(project: Path) -> None:
    done = run_shell(project, f"mkdir gone && cd gone && rmdir ../gone && {CIFARFLOW} doctor")
    assert done.returncode == 2
    assert "the current directory no longer exists" in done.stderr
    assert "Traceback" not in done.stderr
