"""Define each flow's parameters once: for Prefect's form, for `--param`, for the command line and for Python.

This module imports neither Prefect nor PyTorch: what a user gave wrong is said before either is loaded.
"""

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from tasks.overrides import RECIPES, Overrides, with_overrides
from tasks.params import PARAMS, read_params
from tasks.registry.earlier_models import resolve_candidate, resolve_rollback_target
from tasks.registry.ledger import read_ledger, to_line
from tasks.registry.serving_model import require_known_champion
from tasks.workspace.errors import InputError


class Option(NamedTuple):
    """The name of a parameter on the command line, which offers no parameter without one."""

    flag: str
    short: str | None = None
    metavar: str | None = None
    text: str | None = None
    """what the help says of it; by default that is the parameter's description"""


class FormSection:
    """Metadata of a parameter that has parameters of its own: Prefect's form shows them at once.

    For a value that may be None, the form offers a choice, which starts with None and hides all others.
    Nothing in the form needs that choice: what a person leaves empty is not sent.
    """

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = _without_none(handler(core_schema), handler)
        properties = handler.resolve_ref_schema(schema)["properties"]
        # What people change most comes first; the others keep the order of params.yaml.
        in_order = sorted(properties.items(), key=lambda item: item[0] != "train")
        properties.clear()
        properties.update(in_order)
        return schema


def _without_none(schema: JsonSchemaValue, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
    """Take the choice of None out of the schema of an optional value, and of the values in it."""
    options = schema.get("anyOf", [])
    # A toggle keeps the choice: the form would send an untouched one as false.
    is_toggle = any(option.get("type") == "boolean" for option in options)
    if {"type": "null"} in options and not is_toggle:
        options = [option for option in options if option != {"type": "null"}]
        rest = {key: value for key, value in schema.items() if key not in {"anyOf", "default"}}
        schema = rest | (options[0] if len(options) == 1 else {"anyOf": options})
    properties = handler.resolve_ref_schema(schema).get("properties", {}) if "$ref" in schema else {}
    for name, value in properties.items():
        properties[name] = _without_none(value, handler)
    return schema


def _none_if_empty(overrides: Overrides | None) -> Overrides | None:
    """Take overrides without a value for none: the form may send sections in which all is empty."""
    is_empty = overrides is None or not any(overrides.model_dump(exclude_none=True).values())
    return None if is_empty else overrides


class FlowParameters(BaseModel):
    """A base class for the parameters of a flow."""

    model_config = ConfigDict(extra="forbid")

    def check(self) -> None:
        """Raise `InputError` where the values contradict the project in the current directory."""
        overrides = getattr(self, "overrides", None)
        if overrides is not None:
            with_overrides(read_params(PARAMS), overrides)


Changes = Annotated[
    Overrides | None,
    Field(description="parameters to change first; they are written into params.yaml"),
    AfterValidator(_none_if_empty),
    FormSection(),
]
OwnChanges = Annotated[
    Overrides | None,
    Field(description="parameters for this run only; params.yaml does not change"),
    AfterValidator(_none_if_empty),
    FormSection(),
]
Wait = Annotated[
    bool,
    Field(
        description="wait for another run in the workspace to finish instead of failing; a scheduled run "
        "never waits"
    ),
    Option("--wait", text="wait for another run in this directory to finish instead of failing"),
]
DownloadRetries = Annotated[
    int, Field(ge=0, le=100, description="how often to retry the sources of the data, after a delay")
]
Branch = Annotated[
    str | None,
    Field(
        description="pull what the run needs from the DVC remote, push there what it makes, and the results "
        "to this branch of the Git remote, whose ledger counts; for a run in a clone of its own"
    ),
]
Workspace = Annotated[Path, Field(description="the folder that holds dvc.yaml and params.yaml")]
Jobs = Annotated[
    int,
    Field(ge=1, le=64, description="number of parallel trainings, on the same device"),
    Option("--jobs", "-j"),
]
Address = Annotated[
    str | None,
    Field(description="a Dask scheduler, such as tls://host:8786, to train on its workers"),
    Option("--on", metavar="ADDRESS"),
]


class PipelineParameters(FlowParameters):
    overrides: Changes = None
    force: Annotated[
        bool, Field(description="re-run every stage, even if it is up to date"), Option("--force")
    ] = False
    wait: Wait = True
    download_retries: DownloadRetries = 2
    branch: Branch = None
    workspace: Workspace = Path()


class RetrainParameters(FlowParameters):
    overrides: Changes = None
    push: Annotated[
        bool, Field(description="push data, models and the experiment to the remotes"), Option("--push")
    ] = False
    commit: Annotated[
        bool,
        Field(
            description="commit the ledger, DVC's files, params.yaml and the reports to the branch "
            "retrain/DATE, never to the one checked out"
        ),
        Option("--commit"),
    ] = False
    approve: Annotated[
        bool,
        Field(
            description="ask a person before a model is promoted: on the terminal, or in Prefect's UI, where "
            "the suspended run's page has the evidence and a form"
        ),
        Option("--approve"),
    ] = False
    approve_timeout_hours: Annotated[
        float, Field(gt=0, le=24 * 365, description="after this time without an answer the model is rejected")
    ] = 72.0
    wait: Wait = True
    download_retries: DownloadRetries = 2
    branch: Branch = None
    workspace: Workspace = Path()


class RollbackParameters(FlowParameters):
    version: Annotated[
        int | None,
        Field(
            ge=1,
            description="its number in the ledger; by default that of the champion before the current model",
        ),
    ] = None
    restore: Annotated[
        bool,
        Field(description="only restore the current champion's file; the ledger stays as it is"),
        Option("--restore"),
    ] = False
    wait: Wait = True
    branch: Branch = None
    workspace: Workspace = Path()

    def check(self) -> None:
        if self.restore and self.branch:
            raise InputError("restore changes only the workspace: give a branch or restore, not both")
        if self.restore and self.version is not None:
            raise InputError("restore brings back the current champion: give a version or restore, not both")
        if not self.restore and not self.branch:
            if self.version is None:
                require_known_champion()
            resolve_rollback_target(read_ledger(), self.version)


class PromoteParameters(FlowParameters):
    model: Annotated[str, Field(description="its version in the ledger, or its ONNX file")]
    reason: Annotated[
        str,
        AfterValidator(to_line),
        Field(description="why; it is recorded in the ledger"),
        Option("--reason"),
    ]
    wait: Wait = True
    branch: Branch = None
    workspace: Workspace = Path()

    def check(self) -> None:
        if not self.reason.strip():
            raise InputError("an override needs a reason, for the ledger")
        if not self.branch:
            resolve_candidate(read_ledger(), self.model)


class DriftParameters(FlowParameters):
    source: Annotated[
        Path | None,
        Field(description="a folder of images, or a file of recorded predictions; by default the new images"),
    ] = None
    wait: Wait = True
    workspace: Workspace = Path()


class WatchParameters(FlowParameters):
    min_images: Annotated[
        int, Field(ge=1, description="how many images have to wait that no event was emitted for")
    ] = 1
    branch: Annotated[
        str | None,
        Field(description="look at this branch of the Git remote, instead of at the workspace"),
    ] = None
    workspace: Workspace = Path()


class SweepParameters(FlowParameters):
    num_seeds: Annotated[
        int,
        Field(ge=2, le=1000, description="number of seeds, starting at train.seed"),
        Option("--seeds"),
    ] = 5
    jobs: Jobs = 1
    address: Address = None
    overrides: OwnChanges = None
    wait: Wait = True
    workspace: Workspace = Path()


class SearchParameters(FlowParameters):
    space: Annotated[
        list[str],
        Field(
            min_length=1,
            description="what to search: train.KEY= log:0.001..0.02, 0..0.3, 10..50 or adam,adamw",
        ),
        Option("--over", metavar="train.KEY=VALUES"),
    ]
    num_trials: Annotated[
        int, Field(ge=1, le=100_000, description="how many combinations to train"), Option("--trials")
    ] = 32
    batch: Annotated[
        int, Field(ge=1, le=100_000, description="how many trials are proposed at once"), Option("--batch")
    ] = 4
    sampler: Annotated[
        Literal["tpe", "random", "grid"],
        Field(description="who proposes the trials; tpe is Optuna's default"),
        Option("--sampler"),
    ] = "tpe"
    prune: Annotated[
        bool,
        Field(description="stop the worse two thirds of a batch early, twice (successive halving)"),
        Option("--prune"),
    ] = False
    recipe_name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9_-]+$", description="the recipe to write: recipes/NAME.yaml"),
        Option("--name", metavar="NAME"),
    ] = "found"
    storage: Annotated[
        str | None,
        Field(description="URL of a database for the study; by default a file in artifacts/"),
        Option("--storage", metavar="URL"),
    ] = None
    jobs: Jobs = 1
    address: Address = None
    overrides: OwnChanges = None
    wait: Wait = True
    workspace: Workspace = Path()

    def check(self) -> None:
        from tasks.search.report import check_overwrite
        from tasks.search.study import check_sampler, check_space, parse_space

        params = read_params(PARAMS)
        space = parse_space(self.space)
        check_space(params if self.overrides is None else with_overrides(params, self.overrides), space)
        check_overwrite(RECIPES / f"{self.recipe_name}.yaml")
        check_sampler(self.sampler, space, self.num_trials)
