"""A lack of memory is one line, whatever a library makes of it; any other error keeps its traceback."""

import errno
import resource
import subprocess
import sys

import pytest

from flows.run.memory import describe_lack_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 9.31 GiB for an array"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        ImportError("libopenblas.so: cannot allocate memory in static TLS block"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("alloc_cpu.cpp:117: DefaultCPUAllocator: can't allocate memory:\n9 B"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
    ],
    ids=str,
)
def test_lack_of_memory_is_one_line(error: Exception) -> None:
    text = describe_lack_of_memory(error)
    assert text is not None
    assert text.startswith("not enough memory")
    assert "\n" not in text


@pytest.mark.parametrize(
    "error",
    [
        ImportError("No module named torch"),
        RuntimeError("shapes differ"),
        OSError(2, "no"),
        KeyError("memory"),
    ],
    ids=str,
)
def test_any_other_error_is_none(error: Exception) -> None:
    assert describe_lack_of_memory(error) is None


def test_command_whose_libraries_find_no_memory_ends_in_one_line() -> None:
    """PyTorch takes more address space than this, and says so by an ImportError."""
    limit = 700 << 20
    program = (
        "import click\n"
        "from flows.cli import main\n"
        "main.cli.add_command(click.Command('load', callback=lambda: __import__('torch') and None))\n"
        "raise SystemExit(main.run_command(['load']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("cifarflow: not enough memory (")
