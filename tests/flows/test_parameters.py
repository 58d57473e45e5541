"""A flow's parameters stand once: flow, form and command line are made from them."""

import inspect
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from flows import parameters
from flows.cli.main import cli
from flows.parameters import FlowParameters, Option
from flows.run.lock import workspace_lock
from tests.conftest import ROOT, copy_of_project

FLOWS = {
    "pipeline": "flows.pipeline",
    "retrain": "flows.retrain",
    "rollback": "flows.rollback",
    "promote": "flows.rollback",
    "drift": "flows.drift",
    "watch": "flows.watch",
    "sweep": "flows.sweep",
    "search": "flows.search",
}
COMMANDS = {name: name for name in FLOWS if name not in {"drift", "watch"}} | {"pipeline": "run"}
"""the command of each flow that the command line runs"""


def find_model(name: str) -> type[FlowParameters]:
    model: type[FlowParameters] = getattr(parameters, f"{name.capitalize()}Parameters")
    return model


@pytest.mark.parametrize("name", FLOWS)
def test_flow_has_the_parameters_with_their_texts_and_defaults(name: str) -> None:
    flow = getattr(import_module(FLOWS[name]), name)
    fields = find_model(name).model_fields
    assert list(inspect.signature(flow.fn).parameters) == list(fields)
    properties = flow.parameters.properties
    for key, field in fields.items():
        assert properties[key]["description"] == field.description
        assert (key in (flow.parameters.required or [])) == field.is_required()


def test_form_shows_the_parameters_of_a_section_at_once() -> None:
    """A choice of None would hide them; but a toggle without one would send False where nobody touched it."""
    from prefect.utilities.schema_tools.validation import validate

    schema = import_module("flows.pipeline").pipeline.parameters.model_dump()
    overrides = schema["properties"]["overrides"]
    assert (overrides["$ref"], overrides["default"]) == ("#/definitions/Overrides", {})
    sections = schema["definitions"]["Overrides"]["properties"]
    assert next(iter(sections)) == "train"
    assert all("$ref" in section for section in sections.values())
    train = schema["definitions"]["TrainConfig"]["properties"]
    assert train["epochs"]["type"] == "integer"
    for toggle in ("deterministic", "flip"):
        assert {"type": "null"} in train[toggle]["anyOf"]
    forms: list[dict[str, object]] = [{}, {"train": {}}, {"train": {"epochs": 2}}, {"train": {"flip": None}}]
    for sent in forms:
        assert validate({"overrides": sent}, schema) == []
    assert list(schema["properties"])[-2:] == ["branch", "workspace"]


def test_form_in_which_nothing_was_filled_in_changes_nothing() -> None:
    assert parameters.PipelineParameters.model_validate({"overrides": {"train": {}}}).overrides is None
    given = parameters.PipelineParameters.model_validate({"overrides": {"train": {"epochs": 2}}}).overrides
    assert given is not None
    assert given.model_dump(exclude_none=True) == {"train": {"epochs": 2}}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_offers_the_options_of_the_parameters(name: str) -> None:
    command = cli.get_command(click.Context(cli), COMMANDS[name])
    assert command is not None
    offered = {flag for option in command.params if isinstance(option, click.Option) for flag in option.opts}
    for key, field in find_model(name).model_fields.items():
        for option in field.metadata:
            if isinstance(option, Option):
                assert option.flag in offered, key


def test_parameters_need_neither_prefect_nor_pytorch() -> None:
    code = "import sys, flows.parameters; print(*{'prefect', 'torch', 'optuna'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search"], "nothing to search"),
        (["search", "--over", "train.lr=abc"], "train.lr should be a number"),
        (["promote", "99", "--reason", "x"], "registry/ledger.jsonl has no version 99; "),
        (["rollback", "99"], "nothing to roll back to"),
        (["rollback", "1", "--restore"], "give a version or restore, not both"),
        (["sweep", "--set", "train.epochs=0"], "train.epochs"),
        (["sweep", "--recipe", "net76", "--set", "train.epochs=1"], "warmup_epochs"),
        (["retrain", "--reason"], "--reason"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_come_before_anything_is_started(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flows.cli import flow_command
    from flows.cli.main import run_command

    monkeypatch.setattr(flow_command, "prefect_console", lambda: pytest.fail("Prefect was started"))
    monkeypatch.chdir(copy_of_project(tmp_path))
    shutil.copytree(ROOT / "recipes", "recipes")
    with workspace_lock():  # Another run, for which nobody has to wait to hear of an error.
        assert run_command(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("cifarflow: ")
