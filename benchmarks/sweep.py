"""Duration of a sweep by the number of parallel trainings on one device.

    python benchmarks/sweep.py [--seeds 4] [--jobs 1 2] [--rounds 3] [--recipe NAME] [--set KEY=VALUE ...]

Measures the whole of `cifarflow sweep` without Prefect: processes, training, and evaluation on validation and
test, in interleaved rounds, each in a new folder. On a CPU parallel trainings share the threads. It needs the
splits: cifarflow run, or python -m tasks split. Run it on an idle machine.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

from flows.runtime.seeds import run_sweep
from tasks.overrides import merge_overrides, parse_overrides, read_recipe, with_overrides
from tasks.params import read_params
from tasks.workspace.errors import RunError

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--jobs", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipe", help="default: the parameters of params.yaml")
    parser.add_argument("--splits", type=Path, help="other splits than those of params.yaml")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="takes precedence over the recipe"
    )
    args = parser.parse_args(arguments)
    try:
        overrides = parse_overrides(args.set)
        if args.recipe:
            overrides = merge_overrides(read_recipe(args.recipe, ROOT / "recipes"), overrides)
        params = with_overrides(read_params(ROOT / "params.yaml"), overrides)
        splits = args.splits or ROOT / params.paths.splits
        seconds: dict[int, list[float]] = {jobs: [] for jobs in args.jobs}
        for _ in range(args.rounds):
            for jobs, measured in seconds.items():
                with tempfile.TemporaryDirectory() as name, Path(os.devnull).open("w") as devnull:
                    folder, began = Path(name), time.perf_counter()
                    output = folder / "sweep.json"
                    with redirect_stdout(devnull):
                        run_sweep(splits, folder, output, params.train, params.evaluate, args.seeds, jobs)
                    measured.append(time.perf_counter() - began)
    except RunError as error:
        sys.exit(str(error))
    first = statistics.median(seconds[args.jobs[0]])
    print(f"{args.seeds} seeds, {params.train.epochs} epochs, rounds: {args.rounds}\n")
    print("| jobs | seconds, median | min to max | vs. the first |")
    print("| --- | --- | --- | --- |")
    for jobs, measured in seconds.items():
        median = statistics.median(measured)
        print(
            f"| {jobs} | {median:.1f} | {min(measured):.1f} to {max(measured):.1f} | {median / first:.2f} |"
        )


if __name__ == "__main__":
    main()
