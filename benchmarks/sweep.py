"""Measure the overhead of a training in a sweep: on a local cluster, a running cluster, plain processes.

    python benchmarks/sweep.py [--seeds 8] [--jobs 1 2] [--rounds 3] [--recipe NAME] [--set KEY=VALUE ...]

Each measurement is a whole sweep in a new folder, in interleaved rounds: processes, data, training, and
evaluation on validation and test. `processes` is a pool of plain processes that call the same function
without Prefect and Dask. The running cluster is a scheduler and a worker per job that were started before.
Each training has `train.num_threads` divided by the jobs. The script needs the splits: cifarflow run, or
python -m tasks split. Run it on an idle machine, and with `--set train.epochs=1` for the overhead alone.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from distributed import Client

from flows.server.connection import connect_to_server
from tasks.overrides import merge_overrides, parse_overrides, read_recipe, with_overrides
from tasks.params import Params, read_params
from tasks.params.train import TrainConfig
from tasks.workspace.errors import RunError

ROOT = Path(__file__).resolve().parents[1]
DASK = str(Path(sys.executable).with_name("dask"))


@contextmanager
def standing_cluster(jobs: int) -> Iterator[str]:
    """Start a scheduler with `jobs` workers, and yield its address."""
    with tempfile.TemporaryDirectory() as folder:
        address_file = Path(folder, "scheduler.json")
        # Dask's own value of the second variable makes a training a third slower (docs/scale.md).
        environment = os.environ | {"CIFARFLOW_CACHE": folder, "MALLOC_TRIM_THRESHOLD_": "268435456"}
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
        options = ["--no-dashboard", "--host", "127.0.0.1"]
        scheduler = [DASK, "scheduler", *options, "--port", "0", "--scheduler-file", str(address_file)]
        worker = [DASK, "worker", *options, "--nthreads", "1", "--nworkers", str(jobs)]
        processes = [subprocess.Popen(scheduler, **silent)]  # type: ignore[call-overload]
        try:
            while not address_file.is_file():
                time.sleep(0.1)
            command = [*worker, "--scheduler-file", str(address_file)]
            processes.append(subprocess.Popen(command, **silent))  # type: ignore[call-overload]
            with Client(scheduler_file=str(address_file)) as client:  # type: ignore[no-untyped-call]
                client.wait_for_workers(jobs)
                address = str(client.scheduler.address)
            yield address
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait()


@dataclass(frozen=True)
class Sweep:
    """One sweep, which each engine runs in turn."""

    params: Params
    splits: Path
    seeds: int
    jobs: int

    def run_in_processes(self) -> None:
        from flows.trainings.trainings import Training, run_training

        trainings = [
            Training(
                f"seed {seed}",
                self._config.model_copy(update={"seed": seed}),
                self.params.evaluate,
                self.splits,
                Path(str(seed)),
            )
            for seed in range(self.seeds)
        ]
        with ProcessPoolExecutor(self.jobs, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(run_training, trainings))

    def run_on_dask(self, address: str | None = None) -> None:
        from flows.sweep import run_sweep

        paths = self.params.paths.model_copy(update={"splits": str(self.splits)})
        tracking = self.params.tracking.model_copy(update={"mode": "disabled"})
        config = self._config if address else self.params.train
        changes = {"paths": paths, "tracking": tracking, "train": config}
        run_sweep(self.params.model_copy(update=changes), self.seeds, self.jobs, address)

    @property
    def _config(self) -> TrainConfig:
        """Return the parameters with the threads that a local cluster gives to each of its jobs."""
        config = self.params.train
        return config.model_copy(update={"num_threads": max(1, config.num_threads // self.jobs)})


def measure(function: Callable[[], None]) -> float:
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as devnull:
        began = time.perf_counter()
        with chdir(folder), redirect_stdout(devnull):
            function()
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--jobs", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipe", help="name of a recipe (default: the parameters of params.yaml)")
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="parameters that take precedence over the recipe",
    )
    args = parser.parse_args()
    seconds: dict[tuple[int, str], list[float]] = {}
    try:
        overrides = parse_overrides(args.set)
        if args.recipe:
            overrides = merge_overrides(read_recipe(args.recipe, ROOT / "recipes"), overrides)
        params = with_overrides(read_params(ROOT / "params.yaml"), overrides)
        with connect_to_server(preload=["flows.sweep"]):
            for jobs in args.jobs * args.rounds:
                sweep = Sweep(params, ROOT / params.paths.splits, args.seeds, jobs)
                with standing_cluster(jobs) as address:
                    variants = {
                        "processes": sweep.run_in_processes,
                        "local cluster": sweep.run_on_dask,
                        "standing cluster": partial(sweep.run_on_dask, address),
                    }
                    for name, function in variants.items():
                        seconds.setdefault((jobs, name), []).append(measure(function))
    except RunError as error:
        sys.exit(str(error))
    print(f"{args.seeds} seeds, {params.train.epochs} epochs, rounds: {args.rounds}\n")
    print("| jobs | engine | seconds, median | min to max | per training, beyond processes |")
    print("| ---: | --- | ---: | --- | ---: |")
    for (jobs, name), values in seconds.items():
        median, plain = statistics.median(values), statistics.median(seconds[jobs, "processes"])
        span = f"{min(values):.1f} to {max(values):.1f}"
        print(f"| {jobs} | {name} | {median:.1f} | {span} | {(median - plain) / args.seeds:+.2f} s |")


if __name__ == "__main__":
    main()
