"""Compare a run in a clone of its own with the same run in the project's folder (docs/anywhere.md).

    python -m benchmarks.anywhere [--times 1 10 100] [--rounds 5]

A Prefect server, a worker in an empty folder, bare Git repositories and DVC remotes in folders are all on
this machine, so that no figure has the time of a network. The data sets hold the images of the generated
sample, 9 MB, as many times as --times says. Each project has retrained once before. Each round has every run
once; a run is timed from the start of its process to its last state. The column `disk` is the largest size
that the worker's folder had.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from flows.cli.sample_workspace import prepare_sample_workspace
from tasks.dataset.cifar import CIFAR10, MD5_FILE, restricted_loads, write_batch
from tasks.dataset.synthetic import generate_sample
from tasks.overrides import parse_overrides, write_overrides
from tasks.workspace.files import hash_file
from tests.conftest import QUICK, ROOT, copy_of_project
from tests.e2e.deployment_server import BIN, FINAL, DeploymentServer, run_server, wait_until
from tests.flows.git_clones import Remotes, make_remotes

LOCAL, ANYWHERE = "in the folder", "in a clone"


@dataclass
class Figures:
    """The measurements of a row: seconds per round by place, and the largest size of the worker's folder."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {LOCAL: [], ANYWHERE: []})
    disk_mb: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT.parent) as name:
        folder = Path(name)
        (folder / "home").mkdir()
        (folder / "worker").mkdir()
        with run_server(DeploymentServer(folder, folder / "home")) as server:
            projects = {times: make_project(folder / f"{times}", times, server) for times in arguments.times}
            figures = measure(server, folder / "worker", projects, arguments.rounds)
    print_table(figures)


def make_project(folder: Path, times: int, server: DeploymentServer) -> Remotes:
    """Make a project that has retrained once, in the folder `laptop`, and its remotes."""
    (folder / "sample").mkdir(parents=True)
    copy_of_project(folder)
    generate_repeated_sample(folder / "sample/data", times)
    workspace = prepare_sample_workspace(folder)
    write_overrides(workspace / "params.yaml", parse_overrides(QUICK))
    command = [str(BIN / "cifarflow"), "retrain"]
    done = subprocess.run(command, cwd=workspace, env=server.env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the first retraining failed:\n{done.stdout}{done.stderr}")
    shutil.copy(ROOT / "prefect.yaml", workspace)
    shutil.copytree(ROOT / "flows", workspace / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    remotes = make_remotes(folder, workspace)
    shutil.rmtree(workspace)
    return remotes


def generate_repeated_sample(data: Path, times: int) -> None:
    """Write a data set in CIFAR-10's format that holds the sample's images `times` times."""
    generate_sample(data)
    for name in (*CIFAR10.train, CIFAR10.test):
        file = data / CIFAR10.folder / name
        batch = restricted_loads(file.read_bytes(), name)
        images = np.tile(batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), (times, 1, 1, 1))
        write_batch(file, images, batch["labels"] * times, name)
    listing = data / CIFAR10.folder / MD5_FILE
    names = [line.split()[1] for line in listing.read_text(encoding="utf-8").splitlines()]
    lines = [f"{hash_file(listing.with_name(name), 'md5')}  {name}" for name in names]
    listing.write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(
    server: DeploymentServer, worker_folder: Path, projects: dict[int, Remotes], rounds: int
) -> dict[str, Figures]:
    first = next(iter(projects.values()))
    laptop = server.at(first.folder / "laptop")
    laptop.run_prefect("work-pool", "create", "cifarflow", "--type", "process")
    laptop.run_prefect("deploy", "--all")
    worker = server.at(worker_folder)
    worker.start_worker("--limit", "1")
    figures: dict[str, Figures] = {}
    try:
        for _ in range(rounds):
            for times, remotes in projects.items():
                row = figures.setdefault(f"nothing to do, data times {times}", Figures())
                measure_both(worker, remotes, "retrain/retrain", "Skipped", row)
            row = figures.setdefault("every stage", Figures())
            measure_both(worker, first, "pipeline/pipeline", "Completed", row, force=True)
    finally:
        worker.stop_worker()
    return figures


def measure_both(
    worker: DeploymentServer, remotes: Remotes, deployment: str, state: str, row: Figures, **options: Any
) -> None:
    laptop = str(remotes.folder / "laptop")
    row.seconds[LOCAL].append(time_run(worker, deployment, state, workspace=laptop, **options))
    worker.run_prefect("variable", "set", "cifarflow_repository", remotes.url, "--overwrite")
    ended = threading.Event()
    sizes: list[float] = []
    watch = threading.Thread(target=watch_disk, args=(worker.folder, ended, sizes))
    watch.start()
    try:
        row.seconds[ANYWHERE].append(
            time_run(worker, f"{deployment}-anywhere", state, branch="main", **options)
        )
    finally:
        ended.set()
        watch.join()
    row.disk_mb = max(row.disk_mb, *sizes)


def time_run(worker: DeploymentServer, deployment: str, state: str, **parameters: Any) -> float:
    """Start a run and return the seconds from the start of its process to its last state."""
    run = worker.start_run(deployment, **parameters)
    wait_until(lambda: worker.read_state(run)[0] in FINAL | {"Skipped"}, 600)
    if worker.read_state(run)[0] != state:
        sys.exit(f"{deployment} did not end in the state {state}: {worker.read_state(run)}")
    states = worker.request(f"flow_run_states/?flow_run_id={run}")
    started, ended = (
        min(datetime.fromisoformat(each["timestamp"]) for each in states if each["type"] == kind)
        for kind in ("PENDING", "COMPLETED")
    )
    wait_until(lambda: not worker.read_worker_processes(), 60)
    return (ended - started).total_seconds()


def watch_disk(folder: Path, ended: threading.Event, sizes: list[float]) -> None:
    while not ended.wait(0.2):
        # Files may vanish while `du` reads the folder, so its exit code does not count.
        done = subprocess.run(["du", "-sb", str(folder)], capture_output=True, text=True, check=False)
        sizes.append(int(done.stdout.split()[0]) / 1e6)


def print_table(figures: dict[str, Figures]) -> None:
    print("Median seconds, and from lowest to highest:\n")
    print(f"| run | {LOCAL} | {ANYWHERE} | median of the differences | disk, MB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, row in figures.items():
        local, anywhere = row.seconds[LOCAL], row.seconds[ANYWHERE]
        more = statistics.median(b - a for a, b in zip(local, anywhere, strict=True))
        cells = [f"{statistics.median(v):.1f} ({min(v):.1f} to {max(v):.1f})" for v in (local, anywhere)]
        print(f"| {name} | {' | '.join(cells)} | {more:+.1f} | {row.disk_mb:,.0f} |")


if __name__ == "__main__":
    main()
