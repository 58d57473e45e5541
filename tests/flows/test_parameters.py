"""A flow's parameters stand once: flow, form and command line are made from them."""

import inspect
import subprocess
import sys
from importlib import import_module

import click
import pytest

from flows import parameters
from flows.cli import flow_commands, training_commands
from flows.parameters import FlowParameters, Option

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
COMMANDS = {"pipeline": flow_commands.run} | {
    str(command.name): command for command in (*flow_commands.COMMANDS, *training_commands.COMMANDS)
}


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


@pytest.mark.parametrize("name", COMMANDS)
def test_command_offers_the_options_of_the_parameters(name: str) -> None:
    if name not in FLOWS:
        return
    offered = {
        flag for option in COMMANDS[name].params if isinstance(option, click.Option) for flag in option.opts
    }
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
        (["promote", "99", "--reason", "x"], "99"),
        (["rollback", "99"], "nothing to roll back to"),
        (["rollback", "1", "--restore"], "give a version or restore, not both"),
        (["sweep", "--set", "train.epochs=0"], "train.epochs"),
        (["sweep", "--recipe", "net76", "--set", "train.epochs=1"], "warmup_epochs"),
        (["retrain", "--reason"], "--reason"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_come_before_anything_is_started(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.cli import console
    from flows.cli.main import run_command

    monkeypatch.setattr(console, "prefect_console", lambda: pytest.fail("Prefect was started"))
    assert run_command(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("cifarflow: ")
