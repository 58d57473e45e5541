"""The command `cifarflow drift` tests whether images are still like the training images."""

import os
from pathlib import Path

import click

from flows.cli.project import enter_project
from tasks.params import PARAMS, read_params


@click.command()
@click.argument("source", required=False, type=click.Path(exists=True, path_type=Path))
def drift(source: Path | None) -> None:
    """Test whether images are still like the training images, and show it in reports/drift.html.

    SOURCE is a file that `predict --record` or `demo --record` wrote, or a folder of images, which have
    labels if they are in class directories; by default incoming/. Retraining does this itself.

    \b
    Examples:
      cifarflow drift
      cifarflow drift asked.jsonl
    """
    source = source and source.absolute()
    enter_project()
    from tasks.drift.check import check_drift

    print(check_drift(read_params(PARAMS), source and Path(os.path.relpath(source))))
