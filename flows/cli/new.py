"""The command `cifarflow new` makes a project of one's own images from this project's code."""

import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from flows.versions.git import run_git
from tasks.dataset.folder import copy_images, list_images
from tasks.overrides import copy_params
from tasks.params import read_params
from tasks.registry.sensitivity import describe_sensitivity
from tasks.workspace.code import ROOT
from tasks.workspace.errors import InputError, RunError, describe_os_error

RESULTS = ("data.dvc", "dvc.lock", "registry", "reports", "docs/images")
"""what is this project's own, and is not copied"""
KEPT = "registry/.gitignore"
"""what is copied all the same: it keeps the models, which DVC stores, out of Git"""


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
        left_out = copy_images(images, partial / "data")
        (partial / "reports").mkdir()
        own: dict[str, dict[str, object]] = {
            "project": {"license": ""},  # The owner of the images may name one.
            "split": {"image_size": image_size},
        }
        copy_params(source / "params.yaml", partial / "params.yaml", "folder", own)
        print("recording the images with DVC", file=sys.stderr, flush=True)
        note = _record(partial)
        if target.exists():
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        raise RunError(f"cannot make {target}: {describe_os_error(error)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    notes = [f"left out: {left_out}" if left_out else "", note, _describe_decisions(target)]
    return "\n".join(filter(None, notes))


def _describe_decisions(project: Path) -> str:
    """Say what later retrainings will be able to find; empty where that is enough."""
    params = read_params(project / "params.yaml")
    counts = Counter(image.split for image in list_images(project / "data").files)
    num_val = counts["val"] or round((counts["train"] + counts[""]) * params.split.val_fraction)
    is_enough, text = describe_sensitivity(num_val, params.compare)
    return "" if is_enough else f"few images to compare models on: {text} (docs/promotion.md)"


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
        if (name == KEPT or not is_result) and (source / name).is_file():
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
