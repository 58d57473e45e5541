"""Count predictions in a file from which Prometheus's node_exporter reads them (its textfile collector)."""

import re
from pathlib import Path

from tasks.workspace.files import write_text

METRIC = "cifarflow_predictions_total"
LINE = re.compile(rf'{METRIC}{{model="(\w+)"}} (\d+)')


def add_predictions(file: Path, model: str, count: int) -> None:
    """Add to the count of a model. `RunError` where the file cannot be written.

    A file that was damaged starts at 0 again, as Prometheus expects of counters.
    """
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    counts = {name: int(number) for name, number in LINE.findall(text)}
    counts[model] = counts.get(model, 0) + count
    lines = [f'{METRIC}{{model="{name}"}} {number}\n' for name, number in counts.items()]
    write_text(
        file, f"# HELP {METRIC} predictions that were recorded\n# TYPE {METRIC} counter\n{''.join(lines)}"
    )
