"""The flow `sweep`: train with several seeds. It does not touch the pipeline's artifacts."""

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from flows.run.flow_run import exclusive_workspace, fail_in_one_line, read_params_with
from flows.trainings.sweep import format_summary, run_sweep
from tasks.overrides import Overrides
from tasks.reporting.markdown import escape_markdown
from tasks.workspace.dataset_name import describe_dataset

NumSeeds = Annotated[int, Field(ge=2, le=1000)]
Jobs = Annotated[int, Field(ge=1, le=64)]


@flow(name="sweep", log_prints=True)
@fail_in_one_line
def sweep(
    num_seeds: NumSeeds = 5,
    jobs: Jobs = 1,
    address: str | None = None,
    overrides: Overrides | None = None,
    wait: bool = True,
    workspace: Path = Path(),
) -> State[Any]:
    """Train with several seeds and report mean and standard deviation. An interrupted sweep resumes.

    Args:
        num_seeds: number of seeds, starting at train.seed
        jobs: number of parallel trainings, on the same device
        address: of a Dask scheduler, such as tls://host:8786, to train on its workers
        overrides: parameters for this sweep only; params.yaml does not change
        wait: wait for another run in the workspace to finish instead of failing
        workspace: the folder with params.yaml and, in artifacts/, the splits
    """
    with exclusive_workspace(workspace, wait=wait):
        params = read_params_with(overrides)
        paths = params.paths
        folder = Path(paths.weights).with_name("sweep")
        result = run_sweep(
            Path(paths.splits),
            folder,
            Path(paths.sweep),
            params.train,
            params.evaluate,
            num_seeds,
            jobs,
            Path(paths.pretrained),
            address,
            params,
        )
        create_markdown_artifact(sweep_markdown(result), key="sweep")
    return Completed(message=format_summary(result).splitlines()[-1])


def sweep_markdown(result: dict[str, Any]) -> str:
    """A table with a row per seed, then mean, standard deviation and standard error."""
    network, rows = result["train"]["network"], result["seeds"]
    subject = escape_markdown(f"{network} on {describe_dataset(result['dataset'])}")
    lines = [f"# {len(rows)} seeds of {subject}", ""]
    lines += ["| seed | validation | test | training, s |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        val, test = row["val_accuracy"], row["test_accuracy"]
        lines.append(f"| {row['seed']} | {val:.2%} | {test:.2%} | {row['training_s']:.1f} |")
    for label, name in (("mean", "mean"), ("standard deviation", "std"), ("standard error", "sem")):
        val, test = (result[f"{split}_accuracy"][name] for split in ("val", "test"))
        lines.append(f"| {label} | {val:.2%} | {test:.2%} | |")
    return "\n".join(lines) + "\n"
