"""Plant each mutant of a sample (JSON on standard input) in a copy of the project, and run its tests.

A mutant that they do not notice survives, and is printed: either a test is missing, or the change makes no
difference that counts, and `survivors.toml` says why. The exit code is 1 if more than 5% survive.
"""

import argparse
import contextlib
import difflib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from multiprocessing.pool import ThreadPool
from pathlib import Path
from queue import Queue
from typing import Any

ROOT = Path(__file__).parents[2]
SURVIVORS = Path(__file__).with_name("survivors.toml")
MIN_CAUGHT = 0.95
MARKS = "not (server or browser or data or node or postgres or distributed or faults)"
BASELINE_TIMEOUT_S = 600.0
MIN_TIMEOUT_S = 30.0
TIMEOUT_FACTOR = 4.0
"""a mutant whose tests take so many times as long as without it is noticed: it may loop forever"""
PRELOADED = (
    "hypothesis",
    "onnx",
    "onnxruntime",
    "PIL.Image",
    "pydantic",
    "pytest",
    "ruamel.yaml",
    "safetensors.torch",
    "scipy.stats",
    "torch",
)
"""what most tests import: a process that has done so forks for each mutant"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="try only these of the sample")
    args = parser.parse_args()
    sample = list(enumerate(json.load(sys.stdin), start=1))
    mutants = [(number, mutant) for number, mutant in sample if not args.only or number in args.only]
    known = read_known_survivors()
    num_workers = os.cpu_count() or 1
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPool(num_workers) as pool:
        copies: Queue[Copy] = Queue()
        for number in range(num_workers):
            copies.put(Copy(Path(folder, str(number))))
        tests = sorted({mutant["tests"] for _, mutant in mutants})
        try:
            times_s = pool.map(lambda each: time_tests(copies, each), tests, chunksize=1)
        except RuntimeError as error:
            sys.exit(str(error))
        timeouts_s = {
            each: MIN_TIMEOUT_S + TIMEOUT_FACTOR * time_s for each, time_s in zip(tests, times_s, strict=True)
        }
        print(f"The tests pass without a mutant, {time.monotonic() - start:.0f} s", flush=True)
        num_survivors = 0
        results = pool.imap(lambda each: try_mutant(copies, each[1], timeouts_s[each[1]["tests"]]), mutants)
        for num_tried, ((number, mutant), survived) in enumerate(zip(mutants, results, strict=True), start=1):
            if survived:
                num_survivors += 1
                print(f"{number} survived: {describe(mutant)}", flush=True)
                print(f"  {known.get(identify(mutant), 'a test is missing')}", flush=True)
            if num_tried % 25 == 0:
                print(f"{num_tried} of {len(mutants)}, {time.monotonic() - start:.0f} s", flush=True)
    caught = 1 - num_survivors / len(mutants)
    print(f"{len(mutants) - num_survivors} of {len(mutants)} mutants caught: {caught:.1%}")
    return 0 if caught >= MIN_CAUGHT else 1


class Copy:
    """A copy of the project, and a process in it that forks for each run of tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tracked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(tracked, cwd=ROOT, capture_output=True, check=True).stdout
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        self._process = subprocess.Popen(
            [sys.executable, "-B", __file__, "--serve"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run_tests(self, tests: str, timeout_s: float) -> str:
        """Return nothing where the tests pass, and else the end of their output."""
        found = {file for pattern in tests.split() for file in self.folder.glob(pattern)}
        files = [str(file.relative_to(self.folder)) for file in sorted(found)]
        assert files, tests
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([timeout_s, *files]) + "\n")
        self._process.stdin.flush()
        return str(json.loads(self._process.stdout.readline()))


def time_tests(copies: "Queue[Copy]", tests: str) -> float:
    """Return how many seconds the tests take without a mutant; they have to pass."""
    copy = copies.get()
    start = time.monotonic()
    if output := copy.run_tests(tests, BASELINE_TIMEOUT_S):
        raise RuntimeError(f"{tests} fails without a mutant:\n{output}")
    copies.put(copy)
    return time.monotonic() - start


def try_mutant(copies: "Queue[Copy]", mutant: dict[str, Any], timeout_s: float) -> bool:
    """Whether no test notices the mutant."""
    copy = copies.get()
    try:
        module = copy.folder / mutant["module"]
        module.write_text(mutant["code"], encoding="utf-8")
        survived = not copy.run_tests(mutant["tests"], timeout_s)
        shutil.copy(ROOT / mutant["module"], module)
        # Python compares size and second: of two mutants, it could take the bytecode of the other.
        for file in (module.parent / "__pycache__").glob(f"{module.stem}.*"):
            file.unlink()
    finally:
        copies.put(copy)
    return survived


def describe(mutant: dict[str, Any]) -> str:
    name = f"{mutant['module']}:{mutant['line']} {mutant['function']}"
    return "\n  ".join([name, *list_changes(mutant)])


def list_changes(mutant: dict[str, Any]) -> list[str]:
    """Return the changed lines, each after a `-` or a `+`, without blank ones."""
    before = (ROOT / mutant["module"]).read_text(encoding="utf-8").splitlines()
    lines = difflib.unified_diff(before, mutant["code"].splitlines(), n=0, lineterm="")
    return [line for line in lines if line[0] in "+-" and line[:3] not in {"+++", "---"} and line[1:].strip()]


def identify(mutant: dict[str, Any]) -> tuple[str, str, str]:
    """Return what `survivors.toml` names a mutant by: its module, its function, and the last changed line."""
    last = (list_changes(mutant) or [" "])[-1]
    return mutant["module"], mutant["function"], last[1:].strip()


def read_known_survivors() -> dict[tuple[str, str, str], str]:
    """Return the reasons why mutants survive that no test needs to notice."""
    listed = tomllib.loads(SURVIVORS.read_text(encoding="utf-8"))["survivors"]
    return {(each["module"], each["function"], each["change"]): each["reason"] for each in listed}


class SlowTestsLast:
    """A plugin that runs the slow tests last: most mutants are noticed before."""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def serve() -> None:
    """Run tests in a child per line of standard input, and answer with a line each."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # Importing all of them takes longer than most tests.
    for name in PRELOADED:
        __import__(name)
    import pytest

    answers = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin:
        timeout_s, *files = json.loads(line)
        with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory() as temporary:
            child = os.fork()
            if child == 0:
                os.setsid()
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                sys.path.insert(0, str(Path.cwd()))
                options = ["-x", "-q", f"--basetemp={temporary}/pytest", "-m", MARKS]
                plugins = ["-p", "pytest_timeout", "-p", "no:cacheprovider"]
                code = pytest.main([*plugins, *options, *files], plugins=[SlowTestsLast()])
                os._exit(0 if code == pytest.ExitCode.OK else 1)
            passed = wait_for(child, timeout_s)
            output.seek(0)
            text = "" if passed else output.read().decode(errors="replace")[-4000:] or "no output"
        os.write(answers, (json.dumps(text) + "\n").encode())


def wait_for(child: int, timeout_s: float) -> bool:
    """Whether the child's tests passed in time; a loop without an end counts as noticed."""
    deadline = time.monotonic() + timeout_s
    status: int | None = None
    while status is None and time.monotonic() < deadline:
        pid, code = os.waitpid(child, os.WNOHANG)
        status = code if pid else None
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    return status == 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        sys.exit(main())
