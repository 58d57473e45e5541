"""Measure how long the commands take that people wait for every day (`make bench`).

    python benchmarks/everyday.py [--rounds 3] [--save]

Each row is a command, timed as a whole process in interleaved rounds. It has the median seconds with the
lowest and the highest, and the ratio to the first row, `import torch`, which shows how fast the machine is at
that moment. Beside it is the ratio in the last saved table, benchmarks/everyday.json: a command whose ratio
has grown by more than a fifth is marked, and the exit code is 1. `--save` saves the new table. The last rows
are images per second of a training that runs alone, and of each of two that run at once. Run it on an idle
machine, in a project that has its data; it works in a copy in a temporary folder, with its own Prefect
server.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from neighbors import measure
from PIL import Image
from pipeline import BIN, ROOT, copy_project, time_command

SAVED = Path(__file__).with_suffix(".json")
REFERENCE = "import torch"
MAX_GROWTH = 1.2
EPOCHS = 2


def measure_commands(rounds: int) -> dict[str, list[float]]:
    """Time every command; return the seconds per round by the name of the row."""
    with tempfile.TemporaryDirectory(dir=ROOT.parent) as folder:
        workspace = copy_project(Path(folder), EPOCHS)
        # The user's own Prefect server takes no part.
        os.environ["PREFECT_HOME"] = str(Path(folder, "prefect"))
        image = Path(folder, "image.png")
        Image.new("RGB", (64, 64)).save(image)
        temporary = ["env", "CIFARFLOW_SERVER=temporary"]
        commands = {
            REFERENCE: ["python", "-c", "import torch"],
            "`cifarflow run`, nothing changed": ["cifarflow", "run"],
            "`cifarflow retrain`, nothing changed": ["cifarflow", "retrain"],
            "`cifarflow toys neuron`": ["cifarflow", "toys", "neuron"],
            "the same with a server of its own": [*temporary, "cifarflow", "toys", "neuron"],
            "`cifarflow predict IMAGE`": ["cifarflow", "predict", str(image)],
            "`dvc repro`, nothing changed": ["dvc", "repro"],
            "stage `benchmark`": ["python", "-m", "tasks", "benchmark"],
            f"stage `train`, {EPOCHS} epochs": ["python", "-m", "tasks", "train"],
        }
        try:
            for command in ("run", "retrain"):  # This starts the server, fills caches, and makes a champion.
                time_command(["cifarflow", command], workspace)
            seconds: dict[str, list[float]] = {name: [] for name in commands}
            for _ in range(rounds):
                for name, command in commands.items():
                    seconds[name].append(time_command(command, workspace)[0])
        finally:
            time_command(["cifarflow", "server", "stop"], workspace)
    return seconds


def print_table(seconds: dict[str, list[float]], saved: dict[str, float]) -> dict[str, float]:
    """Print the table and return the ratios by row."""
    reference = statistics.median(seconds[REFERENCE])
    print("| | s, median | lowest to highest | ratio | saved |\n| --- | ---: | --- | ---: | ---: |")
    ratios = {name: statistics.median(values) / reference for name, values in seconds.items()}
    for name, values in seconds.items():
        before = f"{saved[name]:.2f}" if name in saved else ""
        slower = " slower" if ratios[name] > MAX_GROWTH * saved.get(name, ratios[name]) else ""
        print(
            f"| {name} | {statistics.median(values):.1f} | {min(values):.1f} to {max(values):.1f} "
            f"| {ratios[name]:.2f}{slower} | {before} |"
        )
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    os.environ |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    os.environ |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "WANDB_MODE": "disabled"}
    saved = json.loads(SAVED.read_text(encoding="utf-8")) if SAVED.is_file() else {}
    ratios = print_table(measure_commands(arguments.rounds), saved)
    alone, both = (
        statistics.median(
            statistics.mean(measure(count, "as shipped", 4, 2, None)) for _ in range(arguments.rounds)
        )
        for count in (1, 2)
    )
    print(
        f"\nA training on two threads: {alone:,.0f} images/s alone, each of two {both / alone:.2f} of that."
    )
    if arguments.save:
        SAVED.write_text(json.dumps(ratios, indent=2) + "\n", encoding="utf-8")
    if any(ratio > MAX_GROWTH * saved.get(name, ratio) for name, ratio in ratios.items()):
        sys.exit("a command has become slower by more than a fifth")


if __name__ == "__main__":
    main()
