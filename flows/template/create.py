"""Make a project of one's own images: the template's files, its parameters, its README and the images."""

import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from dvc.repo import Repo

from flows.template.digits import DESCRIPTION, write_digits
from flows.template.history import commit_template
from flows.template.readme import write_readme
from flows.versions.dvc_repro import prepare_dvc
from flows.versions.git import fallback_identity, run_git
from tasks.dataset.folder import copy_images, list_images
from tasks.overrides import copy_params
from tasks.params import ProjectConfig, read_params
from tasks.registry.sensitivity import describe_sensitivity
from tasks.validation import validate
from tasks.workspace.errors import InputError, RunError, describe_os_error

MAX_WANDB_NAME = 128


def create_project(
    source: Path, target: Path, images: Path, image_size: int, about: Mapping[str, str] | None = None
) -> str:
    """Make the folder `target`: the template in `source`, parameters, README and a copy of `images`.

    DVC records the images, and Git all else, on top of a commit of the template. `images` is as
    `tasks.dataset.folder` describes. `about` may have `name`, which is the folder's otherwise, `description`,
    `license` and `owner`. `InputError` if one of these cannot be used, or if `target` is there already.
    Return what could not be done or was left out. A failure leaves no `target`.
    """
    known = {"name": target.name, "description": "", "license": "", "owner": ""} | dict(about or {})
    said = validate(ProjectConfig, known, "project").model_dump()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists already; name a new folder")
    if target.resolve().is_relative_to(images.resolve()):
        raise InputError(f"{target} lies in the folder of the images; name another")
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _start_history(source, partial)
        left_out = copy_images(images, partial / "data")
        (partial / "reports").mkdir()
        own: dict[str, dict[str, object]] = {
            "project": said,
            "split": {"image_size": image_size},
            "tracking": {"project": _name_wandb_project(said["name"])},
        }
        copy_params(partial / "params.yaml", partial / "params.yaml", "folder", own)
        write_readme(partial, said)
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


def create_digits_project(source: Path, target: Path, image_size: int, about: Mapping[str, str]) -> str:
    """Make a project of scikit-learn's handwritten digits, as `create_project` does."""
    with tempfile.TemporaryDirectory() as folder:
        write_digits(Path(folder))
        said = {"description": DESCRIPTION} | dict(about)
        return create_project(source, target, Path(folder), image_size, said)


def _start_history(source: Path, project: Path) -> None:
    """Begin the project's history with a commit of the template, and check its files out."""
    run_git("init", "--quiet", folder=project)
    commit = commit_template(source, project, fallback_identity(project))
    run_git("reset", "--quiet", "--hard", commit, folder=project)


def _name_wandb_project(name: str) -> str:
    """Return a name that W&B accepts for the runs of this project."""
    return re.sub(r"[/\\#?%:]", "-", name)[:MAX_WANDB_NAME]


def _describe_decisions(project: Path) -> str:
    """Say what later retrainings will be able to find; empty where that is enough."""
    params = read_params(project / "params.yaml")
    counts = Counter(image.split for image in list_images(project / "data").files)
    num_val = counts["val"] or round((counts["train"] + counts[""]) * params.split.val_fraction)
    is_enough, text = describe_sensitivity(num_val, params.compare)
    return "" if is_enough else f"few images to compare models on: {text} (docs/promotion.md)"


def _record(project: Path) -> str:
    """Record the images with DVC, and all files in Git. Return what could not be done."""
    prepare_dvc()
    with Repo(str(project)) as repo:
        repo.add(str(project / "data"))
    try:
        run_git("add", "--all", folder=project)
        message = "Images, and what this project says about them"
        identity = fallback_identity(project)
        run_git("commit", "--quiet", "--message", message, folder=project, env=identity)
    except RunError as error:
        return f"not committed to Git: {error}"
    return ""
