"""Seeds one after the other against several at once, on one device: which is done sooner.

    python benchmarks/sweep.py [--seeds 4] [--at-once 1 2] [--rounds 3] [--recipe NAME] [--set KEY=VALUE ...]

Each way is the whole of `cifarflow sweep` without Prefect: processes, training, and judging on validation
and test. The ways take turns, each in a new folder. On a CPU those at once share the threads. It needs the
splits: cifarflow run, or python -m tasks split. Run it alone.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

from flows.runtime.seeds import sweep
from tasks.overrides import merge_overrides, parse_overrides, read_recipe, with_overrides
from tasks.params import read_params
from tasks.workspace.errors import RunError

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--at-once", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipe", help="default: what params.yaml has")
    parser.add_argument("--splits", type=Path, help="other splits than those of params.yaml")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="goes beyond the recipe")
    chosen = parser.parse_args(arguments)
    try:
        overrides = parse_overrides(chosen.set)
        if chosen.recipe:
            overrides = merge_overrides(read_recipe(chosen.recipe, ROOT / "recipes"), overrides)
        params = with_overrides(read_params(ROOT / "params.yaml"), overrides)
        splits = chosen.splits or ROOT / params.paths.splits
        seconds: dict[int, list[float]] = {count: [] for count in chosen.at_once}
        for _ in range(chosen.rounds):
            for count, taken in seconds.items():
                with tempfile.TemporaryDirectory() as name, Path(os.devnull).open("w") as nowhere:
                    folder, began = Path(name), time.perf_counter()
                    with redirect_stdout(nowhere):
                        sweep(
                            splits,
                            folder,
                            folder / "sweep.json",
                            params.train,
                            params.evaluate,
                            chosen.seeds,
                            count,
                        )
                    taken.append(time.perf_counter() - began)
    except RunError as error:
        sys.exit(str(error))
    first = statistics.median(seconds[chosen.at_once[0]])
    print(f"{chosen.seeds} seeds, {params.train.epochs} epochs, rounds: {chosen.rounds}\n")
    print("| at once | seconds, median | lowest to highest | to the first |")
    print("| --- | --- | --- | --- |")
    for count, taken in seconds.items():
        median = statistics.median(taken)
        print(f"| {count} | {median:.1f} | {min(taken):.1f} to {max(taken):.1f} | {median / first:.2f} |")


if __name__ == "__main__":
    main()
