"""The flow `sweep`: train with several seeds. It does not touch the pipeline's artifacts."""

from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.parameters import SweepParameters
from flows.run.flow_run import exclusive_workspace, read_params_with, workspace_flow
from flows.trainings.sweep import format_summary, run_sweep
from tasks.dataset.catalog import open_dataset
from tasks.reporting.markdown import escape_markdown


@workspace_flow("sweep")
def sweep(parameters: SweepParameters) -> State[Any]:
    """Train with several seeds and report mean and standard deviation. An interrupted sweep resumes."""
    with exclusive_workspace(parameters):
        params = read_params_with(parameters.overrides)
        paths = params.paths
        folder = Path(paths.weights).with_name("sweep")
        result = run_sweep(
            Path(paths.splits),
            folder,
            Path(paths.sweep),
            params.train,
            params.evaluate,
            parameters.num_seeds,
            parameters.jobs,
            Path(paths.pretrained),
            parameters.address,
            params,
        )
        create_markdown_artifact(sweep_markdown(result), key="sweep")
    return Completed(message=format_summary(result).splitlines()[-1])


def sweep_markdown(result: dict[str, Any]) -> str:
    """A table with a row per seed, then mean, standard deviation and standard error."""
    network, rows = result["train"]["network"], result["seeds"]
    subject = escape_markdown(f"{network} on {open_dataset(result['dataset']).description}")
    lines = [f"# {len(rows)} seeds of {subject}", ""]
    lines += ["| seed | validation | test | training, s |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        val, test = row["val_accuracy"], row["test_accuracy"]
        lines.append(f"| {row['seed']} | {val:.2%} | {test:.2%} | {row['training_s']:.1f} |")
    for label, name in (("mean", "mean"), ("standard deviation", "std"), ("standard error", "sem")):
        val, test = (result[f"{split}_accuracy"][name] for split in ("val", "test"))
        lines.append(f"| {label} | {val:.2%} | {test:.2%} | |")
    return "\n".join(lines) + "\n"
