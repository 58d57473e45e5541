"""The flow `drift`: whether new images, or recorded predictions, are still like the training images."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.champion import publish
from flows.run import markdown
from flows.run.flow_run import PARAMS, exclusive_workspace, fail_in_one_line
from tasks.drift.check import DriftCheck, check_drift, record_intake
from tasks.params import Params, read_params
from tasks.workspace.errors import RunError


@flow(name="drift", log_prints=True)
@fail_in_one_line
def drift(source: Path | None = None, wait: bool = True, workspace: Path = Path()) -> State[Any]:
    """Test images for drift, with an artifact and, where there is any, the event `cifarflow.data.drifted`.

    Args:
        source: a folder of images, or a file of recorded predictions; by default the new images
        wait: wait for another run in the workspace to finish instead of failing; a scheduled run never waits
        workspace: the folder that holds dvc.yaml and params.yaml
    """
    with exclusive_workspace(workspace, wait=wait):
        check = check_drift(read_params(PARAMS), source)
        report_drift(check, "drift")
    return Completed(name="Drifted" if check.result.shifts else "Completed", message=str(check))


def check_new_images(params: Params) -> None:
    """Of a retraining, before it takes them in: stops nothing, but is in the next decision's evidence."""
    try:
        check = check_drift(params)
    except RunError as error:
        print(f"drift of new images is not tested: {error}")
        return
    record_intake(check, params)
    report_drift(check, "retrain")


def report_drift(check: DriftCheck, flow: str) -> None:
    """The line, the artifact and the event; a trigger in prefect.yaml reacts to that of the flow `drift`."""
    print(check)
    create_markdown_artifact(markdown.drift_markdown(check), key="drift")
    if check.result.shifts:
        publish.emit_drift_event(check, flow)
