"""Write the flows' summaries: the table of a run's tasks, and Markdown for Prefect's artifacts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.run.tables import Table
from tasks.dataset.catalog import open_dataset
from tasks.incoming.ingest import REASONS, IngestResult
from tasks.incoming.pending import REJECTED_DIR
from tasks.params import Params
from tasks.registry.ledger import LedgerEntry, describe_detectable_gain, describe_test
from tasks.reporting.markdown import escape_markdown, format_row
from tasks.workspace.files import read_json

if TYPE_CHECKING:
    from tasks.drift.check import DriftCheck  # This import is slow, since it brings SciPy's statistics.

MAX_ROWS = 20  # A table of files has so many rows at most.


@dataclass(frozen=True)
class TaskRunSummary:
    """A row of the table of a run's tasks."""

    name: str
    state: str
    seconds: float
    message: str


def tabulate_runs(runs: Sequence[TaskRunSummary]) -> Table:
    rows = [(run.name, run.state, f"{run.seconds:.1f}", run.message) for run in runs]
    return Table(["task", "state", "seconds", "message"], rows, right={"seconds"})


def pipeline_markdown(runs: Sequence[TaskRunSummary], params: Params) -> str:
    """Show the run's tasks, and the values of metrics.json and benchmark.json."""
    name = params.project.name or open_dataset(params.dataset).description
    lines = [f"# Pipeline on {escape_markdown(name)}", ""]
    lines += [tabulate_runs(runs).as_markdown()]
    lines += ["", *_metrics_lines(read_json(Path(params.paths.metrics)))]
    lines += ["", _tabulate_benchmark(read_json(Path(params.paths.benchmarks))).as_markdown()]
    return "\n".join(lines) + "\n"


def _metrics_lines(metrics: dict[str, Any]) -> list[str]:
    low, high = metrics["test"]["accuracy_ci95"]
    names = ("loss", "accuracy", "balanced_accuracy", "macro_f1", "ece")
    rows = [(name, f"{metrics['val'][name]:.4f}", f"{metrics['test'][name]:.4f}") for name in names]
    return [
        f"Test accuracy **{metrics['test']['accuracy']:.2%}** (95% interval {low:.2%} to {high:.2%})",
        f"of {metrics['model']}, {metrics['epochs']} epochs on {metrics['device']}, seed {metrics['seed']}.",
        *_tta_lines(metrics),
        "",
        Table(["", "val", "test"], rows, right={"val", "test"}).as_markdown(),
    ]


def _tta_lines(metrics: dict[str, Any]) -> list[str]:
    if "tta" not in metrics:
        return []
    plain_accuracy = metrics["test"]["accuracy_no_tta"]
    return [f"With test-time augmentation ({metrics['tta']}); without: {plain_accuracy:.2%}."]


def _tabulate_benchmark(benchmark: dict[str, Any]) -> Table:
    numbers = ["single stream p90 ms", "offline images/s", "server images/s", "accuracy", "RSS, MB"]
    rows = [
        (
            name,
            f"{scenarios['single_stream']['p90_ms']:.3f}",
            f"{scenarios['offline']['images_per_second']:,.0f}",
            f"{scenarios['server']['images_per_second']:,.0f}",
            f"{scenarios['accuracy']:.2%}",
            f"{scenarios['rss_mb']:,.0f}",
        )
        for name, scenarios in benchmark["scenarios"].items()
    ]
    return Table(["backend", *numbers], rows, right=numbers)


def ingest_markdown(result: IngestResult, doubted: Sequence[Mapping[str, Any]] = ()) -> str:
    """Show accepted images and growth per class, labels that the model doubts, and rejected files."""
    lines = [f"# {result}", ""]
    if result.accepted:
        lines += ["| class | accepted | all added: training | validation | of the data set's own |"]
        lines += ["| --- | ---: | ---: | ---: | ---: |"]
        for label, grown in sorted(result.growth.items()):
            if grown.share:
                counts = f"{result.accepted[label]:,}", f"{grown.train:,}", f"{grown.val:,}"
                lines.append(format_row((label, *counts, f"{grown.share:+.1%}")))
        unchanged = sum(not grown.share for grown in result.growth.values())
        lines += [f"| {unchanged:,} other classes | 0 | 0 | 0 | 0% |"] if unchanged else []
    if doubted:
        lines += ["", "| label in doubt | label | the model says |", "| --- | --- | --- |"]
        lines += [
            format_row((row["name"], row["actual"], f"{row['predicted']} {row['confidence']:.1%}"))
            for row in doubted[:MAX_ROWS]
        ]
    lines += ["", *_rejected_lines(result.rejected)]
    return "\n".join(lines) + "\n"


def _rejected_lines(rejected: Mapping[str, str]) -> list[str]:
    if not rejected:
        return []
    rows = [format_row(row) for row in list(rejected.items())[:MAX_ROWS]]
    if len(rejected) > MAX_ROWS:
        rows.append(f"| … | {len(rejected) - MAX_ROWS:,} more, in {REJECTED_DIR}/{REASONS} |")
    return ["| rejected | reason |", "| --- | --- |", *rows]


def drift_markdown(check: "DriftCheck") -> str:
    """Show the result, and the largest effect of each kind of test."""
    values = check.as_dict()
    lines = [
        f"# {'Drift' if values['drifted'] else 'No drift was found'}",
        "",
        escape_markdown(str(check)),
        "",
    ]
    if values["tests"]:
        lines += ["| shift | largest in | effect | p | required |", "| --- | --- | ---: | ---: | ---: |"]
    for shift, test in values["tests"].items():
        numbers = f"{test['effect']:+.3f}", f"{test['p_value']:.1e}", f"{values['threshold']:.1e}"
        what = "number" if shift == "label" else "model's probability"
        lines.append(format_row((shift, f"{what} of {test['class']}", *numbers)))
    return "\n".join(lines) + "\n"


def _parts_rows(evidence: Mapping[str, Any]) -> list[str]:
    """Write rows for the data set's own validation images and for those that were added, if there are any."""
    rows = []
    for key, name in (("val_own", "the data set's own"), ("val_added", "added")):
        if key in evidence:
            part = evidence[key]
            low, high = part["gain_interval"]
            rows.append(
                f"| accuracy, val, {name} ({part['images']:,}; gain {part['accuracy_gain']:+.2%}, "
                f"{low:+.2%} to {high:+.2%}) | {part['challenger_accuracy']:.2%} "
                f"| {part['champion_accuracy']:.2%} |"
            )
    return rows


def decision_markdown(entry: LedgerEntry, page: str = "") -> str:
    """Show the decision, its reason, and challenger and champion side by side.

    `page` says where the page of the comparison is; it is empty where there is none.
    """
    evidence = entry.evidence
    decision = entry.decision.replace("_", " ").capitalize()
    lines = [f"# {decision}: {escape_markdown(entry.reason)}", ""]
    lines += [f"Model `{entry.model_md5}`, version {entry.version} in the ledger, {entry.time}.", ""]
    if page:
        lines += [
            f"Images that get better or worse, and what has changed: {escape_markdown(page)}",
            "",
        ]
    lines += ["| | challenger | champion |", "| --- | ---: | ---: |"]
    for split in ("val", "test"):
        accuracies = [evidence.get(f"{model}_{split}_accuracy") for model in ("challenger", "champion")]
        cells = ["none" if accuracy is None else f"{accuracy:.2%}" for accuracy in accuracies]
        lines.append(f"| accuracy, {split} | {' | '.join(cells)} |")
    if "accuracy_gain" in evidence:
        lines += _parts_rows(evidence)
        low, high = evidence["gain_interval"]
        counts = f"{evidence['discordant_challenger']} | {evidence['discordant_champion']}"
        lines += [
            f"| only this model correct, val | {counts} |",
            "",
            f"Gain on validation {evidence['accuracy_gain']:+.2%} (interval {low:+.2%} to {high:+.2%}),",
            f"McNemar's exact {describe_test(evidence)}; latency per image",
            f"{evidence['latency_ratio']:.2f}x the champion's. The test split takes no part in the decision.",
            *([f"{detectable.capitalize()}."] if (detectable := describe_detectable_gain(evidence)) else []),
        ]
    notes = []
    if "int8_val_accuracy" in evidence:
        fate = "it goes with this model" if entry.int8_md5 else "left out: quantize.max_accuracy_drop"
        notes.append(f"In 8-bit integers {evidence['int8_val_accuracy']:.2%} on validation; {fate}.")
    notes += [
        f"New images, {intake['time'][:10]}: {intake['summary']}." for intake in evidence.get("drift", [])
    ]
    notes += [
        f"Uneven: {name} was {own:.1%} of the validation images and is {now:.1%} with additions."
        for name, (own, now) in evidence.get("uneven_classes", {}).items()
    ]
    for note in notes:
        lines += ["", escape_markdown(note)]
    return "\n".join(lines) + "\n"
