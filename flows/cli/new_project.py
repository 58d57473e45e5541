"""A project of one's own images: this one's code, without its data and results."""

import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from dvc.repo import Repo

from flows.versions.dvc_cache import keep_dvc_cache_private
from flows.versions.git import run_git
from tasks.dataset.folder import copy_images
from tasks.overrides import copy_params
from tasks.workspace.errors import InputError, RunError, describe_os_error

RESULTS = ("data.dvc", "dvc.lock", "registry", "reports", "docs/images")  # are this project's own
KEPT = "registry/.gitignore"  # is no result: it keeps the models, which DVC stores, out of Git


def create_project(source: Path, target: Path, images: Path, image_size: int) -> str:
    """Make the folder `target`: code, parameters, and a copy of `images`, recorded by DVC and in Git.

    `images` is as `tasks.dataset.folder` describes. `InputError` if it is not, or if `target` is there
    already. Returns what could not be done or was left out. A failure leaves no `target`.
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
            "project": {"license": ""},  # the owner of the images may name one
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
    return "\n".join(filter(None, [f"left out: {left_out}" if left_out else "", note]))


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
        if (name == KEPT or not is_result) and (source / name).is_file():
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
