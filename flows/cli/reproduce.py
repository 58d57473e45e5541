"""The command `cifarflow reproduce` makes the model of a decision again and compares it."""

from pathlib import Path

import click

from flows.cli.project import enter_project


@click.command()
@click.argument("version", required=False, type=click.IntRange(1))
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Make the clone in DIR and leave it there, for a look at what the stages made.",
)
def reproduce(version: int | None, keep: Path | None) -> None:
    """Make the champion, or VERSION of the ledger, again from commit, parameters and data, and compare.

    The stages run in a clean clone of their own; the project stays as it is, and a run in it goes on. Exit
    code 1: the model differs. 2: it cannot be made again.

    \b
    Examples:
      cifarflow reproduce
      cifarflow reproduce 12 --keep /tmp/twelve
    """
    start = enter_project()
    from flows.reproduce.reproduce import reproduce as reproduce_model

    print(reproduce_model(version, None if keep is None else start / keep))
