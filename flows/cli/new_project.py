"""A project of one's own images: this one's code, without its data and results."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dvc.repo import Repo

from flows.versions.dvc_cache import keep_dvc_cache_private
from flows.versions.git import run_git
from tasks.dataset.folder import ImageFolder, list_images
from tasks.overrides import copy_params
from tasks.params import read_params
from tasks.registry.sensitivity import describe_sensitivity
from tasks.workspace.errors import InputError, RunError, describe_os_error, escape_unprintable

RESULTS = ("data.dvc", "dvc.lock", "registry", "reports", "docs/images")  # are this project's own


def create_project(source: Path, target: Path, images: Path, image_size: int) -> str:
    """Make the folder `target`: code, parameters, and a copy of `images`, recorded by DVC and in Git.

    `images` is as `tasks.dataset.folder` describes. `InputError` if it is not, or if `target` is there
    already. Returns what could not be done or was left out. A failure leaves no `target`.
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
            "project": {"license": ""},  # the owner of the images may name one
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
    notes = [_describe_empty_classes(listing), note, _describe_decisions(target, listing)]
    return "\n".join(filter(None, notes))


def _describe_decisions(project: Path, listing: ImageFolder) -> str:
    """Say what later retrainings will be able to find; empty where that is enough."""
    params = read_params(project / "params.yaml")
    counts = Counter(image.split for image in listing.files)
    num_val = counts["val"] or round((counts["train"] + counts[""]) * params.split.val_fraction)
    is_enough, text = describe_sensitivity(num_val, params.compare)
    return "" if is_enough else f"few images to compare models on: {text} (docs/promotion.md)"


def _describe_empty_classes(listing: ImageFolder) -> str:
    """Name the classes of which there is no image: their folders are not copied."""
    empty = set().union(*listing.classes.values()) - {image.label for image in listing.files}
    return f"left out, since there is no image of it: {', '.join(sorted(empty))}" if empty else ""


def _refuse_links_to_elsewhere(listing: ImageFolder, images: Path) -> None:
    """`InputError` if a link would bring in a file from outside of the folder, such as a key."""
    root = images.resolve()
    for image in listing.files:
        if not image.path.resolve().is_relative_to(root):
            name = escape_unprintable(str(image.path.relative_to(images)))
            raise InputError(f"{name}: a link out of {images}; put the image itself there")


def _list_code(source: Path) -> Iterator[Path]:
    """The files that Git tracks, relative to `source`, except for results."""
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
    """Record the images with DVC, and all in Git; returns what could not be done."""
    logging.getLogger("dvc").setLevel(logging.WARNING)
    keep_dvc_cache_private()
    try:
        run_git("init", "--quiet", folder=project)
        with Repo(str(project)) as repo:
            repo.add(str(project / "data"))
        run_git("add", "--all", folder=project)
        run_git("commit", "--quiet", "--message", "Images, and the pipeline to learn them", folder=project)
    except RunError as error:
        return f"not committed to Git: {error}"
    return ""
