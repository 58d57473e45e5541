"""The command `cifarflow new` makes a project of one's own images from this project's code."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from flows.versions.git import run_git
from tasks.dataset.folder import ImageFolder, list_images
from tasks.overrides import copy_params
from tasks.workspace.code import ROOT
from tasks.workspace.errors import InputError, RunError, describe_os_error, escape_unprintable

RESULTS = ("data.dvc", "dvc.lock", "registry", "reports", "docs/images")
"""what is this project's own, and is not copied"""


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--images",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The images: CLASS/* or {train,val,test}/CLASS/*.",
)
@click.option(
    "--image-size",
    type=click.IntRange(8, 1024),
    default=32,
    help="Pixels per side to which they are resized (default: 32).",
)
def new(directory: Path, images: Path, image_size: int) -> None:
    """Make a project in DIR that learns the classes of your own images.

    \b
    Example:
      cifarflow new ../flowers --images ~/Pictures/flowers --image-size 64
    """
    note = create_project(ROOT, directory.absolute(), images.absolute(), image_size)
    if note:
        print(note)
    print(f"{directory} is ready. Next: cd {directory} && make run")


def create_project(source: Path, target: Path, images: Path, image_size: int) -> str:
    """Make the folder `target`: code, parameters, and a copy of `images`, recorded by DVC and in Git.

    `images` is as `tasks.dataset.folder` describes. `InputError` if it is not, or if `target` is there
    already. Return what could not be done or was left out. A failure leaves no `target`.
    """
    listing = list_images(images)
    _refuse_links_to_elsewhere(listing, images)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists already; name a new folder")
    if target.resolve().is_relative_to(images.resolve()):
        raise InputError(f"{target} lies in the folder of the images; name another")
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for file in _list_code(source):
            (partial / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / file, partial / file)
        for image in listing.files:
            copy = partial / "data" / image.path.relative_to(images)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(image.path, copy)
        (partial / "reports").mkdir()
        own: dict[str, dict[str, object]] = {
            "project": {"license": ""},  # The owner of the images may name one.
            "split": {"image_size": image_size},
        }
        copy_params(source / "params.yaml", partial / "params.yaml", "folder", own)
        note = _record(partial)
        if target.exists():
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        raise RunError(f"cannot make {target}: {describe_os_error(error)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return "\n".join(filter(None, [_describe_empty_classes(listing), note]))


def _describe_empty_classes(listing: ImageFolder) -> str:
    """Name the classes of which there is no image: their folders are not copied."""
    empty = set().union(*listing.classes.values()) - {image.label for image in listing.files}
    return f"left out, since there is no image of it: {', '.join(sorted(empty))}" if empty else ""


def _refuse_links_to_elsewhere(listing: ImageFolder, images: Path) -> None:
    """Raise `InputError` if a link would bring in a file from outside of the folder, such as a key."""
    root = images.resolve()
    for image in listing.files:
        if not image.path.resolve().is_relative_to(root):
            name = escape_unprintable(str(image.path.relative_to(images)))
            raise InputError(f"{name}: a link out of {images}; put the image itself there")


def _list_code(source: Path) -> Iterator[Path]:
    """Yield the files that Git tracks, relative to `source`, except for results."""
    if not (source / "params.yaml").is_file():
        raise InputError(f"{source} has cifarflow's code without its project; run this in a project")
    try:
        listed = run_git("ls-files", "-z", folder=source)
    except RunError as error:
        raise RunError(f"{source} is no Git checkout of cifarflow to make a project from: {error}") from None
    for name in filter(None, listed.split("\0")):
        is_result = any(name == result or name.startswith(f"{result}/") for result in RESULTS)
        if not is_result and (source / name).is_file():
            yield Path(name)


def _record(project: Path) -> str:
    """Record the images with DVC, and all files in Git. Return what could not be done."""
    from dvc.repo import Repo

    from flows.versions.dvc_repro import prepare_dvc

    prepare_dvc()
    try:
        run_git("init", "--quiet", folder=project)
        with Repo(str(project)) as repo:
            repo.add(str(project / "data"))
        run_git("add", "--all", folder=project)
        run_git("commit", "--quiet", "--message", "Images, and the pipeline to learn them", folder=project)
    except RunError as error:
        return f"not committed to Git: {error}"
    return ""
