"""The command `cifarflow new` makes a project of one's own images from this project's code."""

from pathlib import Path

import click

from tasks.workspace.code import ROOT
from tasks.workspace.errors import InputError


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The images: CLASS/* or {train,val,test}/CLASS/*.",
)
@click.option(
    "--example",
    type=click.Choice(["digits"]),
    help="Take images that need no download instead: digits are scikit-learn's handwritten digits.",
)
@click.option(
    "--image-size",
    type=click.IntRange(8, 1024),
    default=32,
    help="Pixels per side to which they are resized (default: 32).",
)
@click.option("--name", help="What README, pages and models call the project (default: the name of DIR).")
@click.option("--description", help="What the project is, in a sentence.")
@click.option("--license", help="License of the exported models, such as an SPDX identifier.")
@click.option("--owner", help="Who answers for the project.")
def new(
    directory: Path, images: Path | None, example: str | None, image_size: int, **about: str | None
) -> None:
    """Make a project in DIR that learns the classes of your own images.

    README.md, params.yaml, the report and the models speak of your project; what you do not tell is left out.

    \b
    Examples:
      cifarflow new ../flowers --images ~/Pictures/flowers --image-size 64
      cifarflow new ../digits --example digits
    """
    from flows.template.create import create_digits_project, create_project

    target, said = directory.absolute(), {key: text for key, text in about.items() if text is not None}
    if (images is None) == (example is None):
        raise InputError("name the images: either --images FOLDER or --example digits")
    if example is not None:
        note = create_digits_project(ROOT, target, image_size, said)
    else:
        assert images is not None
        note = create_project(ROOT, target, images.absolute(), image_size, said)
    if note:
        print(note)
    print(f"{directory} is ready. Next: cd {directory} && make run")
