"""What a run says at its end: a table of its stages, and the metrics as a Prefect artifact."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.params import Params
from tasks.registry.ledger import LedgerEntry


@dataclass(frozen=True)
class TaskRunSummary:
    """A line of the summary."""

    stage: str
    state: str
    seconds: float
    message: str


def format_table(runs: Sequence[TaskRunSummary]) -> str:
    table = Table("stage", "state", "seconds", "why", box=None, pad_edge=False)
    table.columns[2].justify = "right"
    for run in runs:
        table.add_row(run.stage, run.state, f"{run.seconds:.1f}", run.message)
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def pipeline_markdown(runs: Sequence[TaskRunSummary], params: Params) -> str:
    """The stages, and what stands in the metrics and the benchmark."""
    lines = [f"# Pipeline on {_dataset_label(params)}", ""]
    lines += ["| stage | state | seconds | why |", "| --- | --- | ---: | --- |"]
    lines += [f"| {run.stage} | {run.state} | {run.seconds:.1f} | {run.message} |" for run in runs]
    lines += ["", *_metrics_lines(read_json(params.paths.metrics))]
    lines += ["", *_benchmark_lines(read_json(params.paths.benchmarks))]
    return "\n".join(lines) + "\n"


def _dataset_label(params: Params) -> str:
    return params.dataset if params.dataset == "CIFAR-10" else "a generated sample, not CIFAR-10"


def read_json(file: str) -> Any:
    return json.loads(Path(file).read_text(encoding="utf-8"))


def _metrics_lines(metrics: dict[str, Any]) -> list[str]:
    low, high = metrics["test"]["accuracy_ci95"]
    names = ("loss", "accuracy", "balanced_accuracy", "macro_f1", "ece")
    return [
        f"Test accuracy **{metrics['test']['accuracy']:.2%}** (95% interval {low:.2%} to {high:.2%})",
        f"of {metrics['model']}, {metrics['epochs']} epochs on {metrics['device']}, seed {metrics['seed']}.",
        *_tta_lines(metrics),
        "",
        "| | val | test |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {metrics['val'][name]:.4f} | {metrics['test'][name]:.4f} |" for name in names),
    ]


def _tta_lines(metrics: dict[str, Any]) -> list[str]:
    if "tta" not in metrics:
        return []
    plain_accuracy = metrics["test"]["accuracy_no_tta"]
    return [f"That is over the views {metrics['tta']}; of the network alone {plain_accuracy:.2%}."]


def _benchmark_lines(benchmark: dict[str, Any]) -> list[str]:
    return [
        "| engine | single stream p90 ms | offline images/s | server images/s | accuracy | MB resident |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {name} | {found['single_stream']['p90_ms']:.3f} "
            f"| {found['offline']['images_per_second']:,.0f} "
            f"| {found['server']['images_per_second']:,.0f} | {found['accuracy']:.2%} "
            f"| {found['rss_mb']:,.0f} |"
            for name, found in benchmark["scenarios"].items()
        ),
    ]


def decision_markdown(entry: LedgerEntry) -> str:
    """Challenger against champion, side by side, with the decision and why."""
    evidence = entry.evidence
    lines = [f"# {entry.decision.capitalize()}: {entry.reason}", ""]
    lines += [f"Model `{entry.model_md5}`, line {entry.version} of the ledger, {entry.time}.", ""]
    lines += ["| | challenger | champion |", "| --- | ---: | ---: |"]
    for split in ("val", "test"):
        cells = [evidence.get(f"{who}_{split}_accuracy") for who in ("challenger", "champion")]
        shown = ["none" if cell is None else f"{cell:.2%}" for cell in cells]
        lines.append(f"| accuracy, {split} | {' | '.join(shown)} |")
    if "gain" in evidence:
        low, high = evidence["gain_interval"]
        lines.append(
            f"| right alone, val | {evidence['discordant_challenger']} | {evidence['discordant_champion']} |"
        )
        lines += [
            "",
            f"Gain on validation {evidence['gain']:+.2%} (interval {low:+.2%} to {high:+.2%}),",
            f"McNemar's exact p {evidence['p_value']:.2g}; a picture takes {evidence['latency_ratio']:.2f}",
            "times as long. The test split takes no part in the decision.",
        ]
    return "\n".join(lines) + "\n"
