"""The flow `drift` tests whether new images, or recorded predictions, are still like the training images."""

from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.champion import publish
from flows.parameters import DriftParameters
from flows.run import markdown
from flows.run.flow_run import exclusive_workspace, workspace_flow
from tasks.params import PARAMS, Params, read_params
from tasks.workspace.errors import RunError

if TYPE_CHECKING:
    from tasks.drift.check import DriftCheck


@workspace_flow("drift")
def drift(parameters: DriftParameters) -> State[Any]:
    """Test images for drift, make an artifact and, if there is drift, emit `cifarflow.data.drifted`."""
    from tasks.drift.check import check_drift

    with exclusive_workspace(parameters):
        check = check_drift(read_params(PARAMS), parameters.source)
        report_drift(check, "drift")
    return Completed(name="Drifted" if check.result.shifts else "Completed", message=str(check))


def check_new_images(params: Params) -> None:
    """Test the images that a retraining is about to take in.

    Drift stops nothing, but it is in the evidence of the next decision.
    """
    from tasks.drift.check import check_drift, record_intake

    try:
        check = check_drift(params)
    except RunError as error:
        print(f"drift of new images is not tested: {error}")
        return
    record_intake(check, params)
    report_drift(check, "retrain")


def report_drift(check: "DriftCheck", flow: str) -> None:
    """Print the result, make an artifact, and emit the event if there is drift.

    A trigger in prefect.yaml reacts to the events of the flow `drift` only.
    """
    print(check)
    create_markdown_artifact(markdown.drift_markdown(check), key="drift")
    if check.result.shifts:
        publish.emit_drift_event(check, flow)
