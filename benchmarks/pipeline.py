"""Measure what Prefect and DVC cost: compare the flow with the bare stages, and with an empty flow.

    python benchmarks/pipeline.py [--rounds 5] [--epochs 24]

Every figure is the wall-clock time of a whole process: the median of interleaved rounds, with the lowest and
the highest. Run it on an idle machine, in a project that has its data; it works in a copy in a temporary
folder.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
EMPTY_FLOW = "from prefect import flow\n@flow\ndef empty(): pass\nempty()"
STAGES_IN_ONE_PROCESS = """
from pathlib import Path
from tasks.params import read_params
from tasks.stages import STAGES, run_stage
params = read_params(Path("params.yaml"))
for stage in STAGES:
    run_stage(stage, params)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=24)
    arguments = parser.parse_args()
    os.environ |= {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    os.environ |= {"DVC_NO_ANALYTICS": "1"}

    with tempfile.TemporaryDirectory(dir=ROOT.parent) as folder:
        workspace = copy_project(Path(folder), arguments.epochs)
        time_command(["cifarflow", "run"], workspace)  # This fills caches, and makes everything up to date.
        time_command(["cifarflow", "retrain"], workspace)  # This makes a champion.
        commands = {
            "empty Prefect flow": ["python", "-c", EMPTY_FLOW],
            "flow, nothing changed": ["cifarflow", "run"],
            "dvc repro, nothing changed": ["dvc", "repro"],
            "retrain, nothing changed": ["cifarflow", "retrain"],
            "stages in one process": ["python", "-c", STAGES_IN_ONE_PROCESS],
            "flow, every stage run": ["cifarflow", "run", "--force"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        peaks: dict[str, float] = dict.fromkeys(commands, 0.0)
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                taken, peak_mb = time_command(command, workspace)
                seconds[name].append(taken)
                peaks[name] = max(peaks[name], peak_mb)

    print("| | median s | lowest | highest | peak MB |\n| --- | ---: | ---: | ---: | ---: |")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.1f} | {min(values):.1f} | {max(values):.1f} | {peaks[name]:,.0f} |")
    empty, noop, repro, idle, plain, full = (statistics.median(values) for values in seconds.values())
    print(f"\nNothing changed: flow {noop - empty:+.1f} s on an empty one, dvc repro {repro:.1f} s.")
    print(f"An idle night: retrain {idle - empty:+.1f} s on an empty flow.")
    print(f"Every stage run: flow less empty one is {(full - empty) / plain:.2f} times the plain stages.")


def copy_project(folder: Path, epochs: int) -> Path:
    """Copy data, code and parameters to a DVC project of its own without Git."""
    for name in ("tasks", "models", "pretrained", "data"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "data.dvc"):
        shutil.copy(ROOT / name, folder)
    lines = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    lines = [f"  epochs: {epochs}" if line.startswith("  epochs:") else line for line in lines]
    (folder / "params.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    subprocess.run(["dvc", "init", "--quiet", "--no-scm"], cwd=folder, check=True)
    return folder


def time_command(command: list[str], folder: Path) -> tuple[float, float]:
    """Return wall-clock seconds, and the peak memory in MB of the process with all its children."""
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        peak = [0.0]
        watch = threading.Thread(target=_watch_memory, args=(process.pid, peak))
        watch.start()
        _, errors = process.communicate()
        seconds = time.perf_counter() - began
        watch.join()
    if process.returncode:
        sys.exit(f"{command} failed:\n{errors.decode()}")
    return seconds, peak[0]


def _watch_memory(pid: int, peak: list[float]) -> None:
    try:
        while True:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return
            family = [process, *process.children(recursive=True)]
            peak[0] = max(peak[0], sum(_own_memory(member) for member in family) / 1e6)
            time.sleep(0.2)
    except psutil.NoSuchProcess:
        return


def _own_memory(process: psutil.Process) -> int:
    """Return the proportional set size, in which shared memory and mapped files count once in total."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


if __name__ == "__main__":
    main()
