"""Find the project, which is a directory with dvc.yaml and params.yaml, and the model that it serves."""

import os
from pathlib import Path

import click

from flows.cli.launch import MARKERS
from tasks.workspace.errors import InputError

record_option = click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Append the probabilities to FILE, not the images, for `cifarflow drift FILE`.",
)

confident_option = click.option(
    "--confident",
    type=click.FloatRange(0, 1),
    metavar="P",
    help="Say `not sure` where no class has a probability of at least P, such as 0.9.",
)
NOT_SURE = "not sure"


def find_project(start: Path) -> Path:
    """Return `start` or the nearest directory above it that is a project, as Git and DVC find theirs.

    `InputError` where there is none.
    """
    for directory in (start, *start.parents):
        if all((directory / name).is_file() for name in MARKERS):
            return directory
    raise InputError(
        f"{start} is not in a cifarflow project (no directory from here up has {' and '.join(MARKERS)}); "
        "change to one, or name it: cifarflow -C DIR ..."
    )


def enter_project() -> Path:
    """Make the project the current directory, and return the one before, to which the user's paths refer."""
    start = Path.cwd()
    os.chdir(find_project(start))
    return start


def enter_model_project() -> tuple[Path, Path, str]:
    """Enter the project; return where the user stands, the model that predictions use, and what it is."""
    from tasks.params import PARAMS, read_params
    from tasks.registry.serving_model import resolve_serving_model

    start = enter_project()
    model, model_label = resolve_serving_model(Path(read_params(PARAMS).paths.onnx_model))
    return start, model.absolute(), model_label
