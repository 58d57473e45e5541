"""The present recipe with several seeds, as a Prefect flow; the pipeline's own artifacts stay as they are."""

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from flows.pipeline import PARAMS, exclusive_workspace, failed_state
from flows.runtime.seeds import format_summary, run_sweep
from tasks.overrides import Overrides, with_overrides
from tasks.params import read_params
from tasks.workspace.errors import RunError

Seeds = Annotated[int, Field(ge=2, le=1000)]
Jobs = Annotated[int, Field(ge=1, le=64)]


@flow(name="sweep", log_prints=True)
def sweep(
    num_seeds: Seeds = 5,
    jobs: Jobs = 1,
    overrides: Overrides | None = None,
    wait: bool = True,
    workspace: Path = Path(),
) -> State[Any]:
    """Train with several seeds, and say mean and spread. A sweep that was killed goes on where it was.

    Args:
        seeds: how many, from train.seed on
        at_once: how many are trained at the same time, on the same device
        overrides: other parameters, for this sweep alone; params.yaml stays as it is
        wait: where another run is at work in the workspace, wait for its end instead of failing
        workspace: the folder that holds params.yaml and, in artifacts/, the splits
    """
    try:
        with exclusive_workspace(workspace, wait=wait):
            params = read_params(PARAMS)
            if overrides is not None:
                params = with_overrides(params, overrides)
            paths = params.paths
            folder = Path(paths.weights).with_name("sweep")
            result = run_sweep(
                Path(paths.splits), folder, Path(paths.sweep), params.train, params.evaluate, num_seeds, jobs
            )
            create_markdown_artifact(sweep_markdown(result), key="sweep")
    except RunError as error:
        return failed_state(error)
    return Completed(message=format_summary(result).splitlines()[-1])


def sweep_markdown(result: dict[str, Any]) -> str:
    network, seeds = result["train"]["network"], result["seeds"]
    where = "" if result["dataset"] == "CIFAR-10" else ", on a generated sample, not on CIFAR-10"
    lines = [f"# {len(seeds)} seeds of {network}{where}", ""]
    lines += ["| seed | validation | test | training, s |", "| --- | ---: | ---: | ---: |"]
    for row in seeds:
        val, test = row["val_accuracy"], row["test_accuracy"]
        lines.append(f"| {row['seed']} | {val:.2%} | {test:.2%} | {row['training_s']:.1f} |")
    for label, name in (("mean", "mean"), ("deviation", "std"), ("error", "sem")):
        val, test = (result[f"{split}_accuracy"][name] for split in ("val", "test"))
        lines.append(f"| {label} | {val:.2%} | {test:.2%} | |")
    return "\n".join(lines) + "\n"
