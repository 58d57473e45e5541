"""The command `cifarflow upgrade` brings a later version of cifarflow's code into a project of one's own."""

import os

import click

from flows.cli.project import enter_project


@click.command()
@click.argument("source")
@click.option("--ref", default="", help="Branch or tag of SOURCE (default: its own branch).")
def upgrade(source: str, ref: str) -> None:
    """Merge a later version of cifarflow from SOURCE, a Git URL or a folder, into this project.

    What is yours stays: params.yaml (new parameters are added), data, registry, reports, README, recipes, and
    your changes of the code. It says which stages will run again, and how to undo it.

    \b
    Examples:
      cifarflow upgrade https://github.com/OWNER/cifarflow
      cifarflow upgrade ../cifarflow
    """
    from flows.template.upgrade import upgrade_project

    path = os.path.abspath(source)  # noqa: PTH100 - A URL is no path.
    enter_project()
    print(upgrade_project(path if os.path.isdir(path) else source, ref))  # noqa: PTH112 - the same
