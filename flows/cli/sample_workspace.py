"""Make a workspace for the generated sample, which keeps its results apart from the project's."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from flows.run.lock import workspace_lock
from flows.versions.dvc_repro import prepare_dvc
from tasks.dataset.synthetic import generate_sample
from tasks.decision_pages.index import write_index
from tasks.overrides import copy_params
from tasks.params import read_params
from tasks.workspace.errors import InputError, RunError

SAMPLE_DIR = "sample"
SAMPLE_OVERRIDES: dict[str, dict[str, Any]] = {
    "train": {"epochs": 4, "batch_size": 32},
    "benchmark": {"warmup_s": 0.02, "max_rounds": 6, "threads": [1], "server_duration_s": 0.05},
}


def prepare_sample_workspace(project: Path, *, wait: bool = False) -> Path:
    """Make the directory `sample/` in the project: data, dvc.yaml, the code, parameters for a short run.

    It has its own DVC repository. Its `params.yaml` has `dataset: sample`, which labels every result.
    """
    prepare_dvc()
    project = project.resolve()
    workspace = project / SAMPLE_DIR
    try:
        workspace.mkdir(exist_ok=True)
    except FileExistsError:
        raise InputError(
            f"{workspace} is a file; the sample needs a directory of that name: move it away"
        ) from None
    try:
        with contextlib.chdir(workspace), workspace_lock(wait=wait):
            for name in (".dvcignore", "dvc.yaml"):
                shutil.copy(project / name, ".")
            for package in ("tasks", "models"):  # The stages depend on these.
                shutil.rmtree(package, ignore_errors=True)
                shutil.copytree(project / package, package, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.rmtree("pretrained", ignore_errors=True)
            shutil.copytree(project / "pretrained", "pretrained")
            copy_params(project / "params.yaml", Path("params.yaml"), "sample", SAMPLE_OVERRIDES)
            if not Path(".dvc/config").is_file():  # This is missing after a kill as well.
                with Repo.init(no_scm=True, force=True):
                    pass
            write_index(read_params(Path("params.yaml")).paths)  # The report links to it.
            if not Path("data").is_dir():
                generate_sample(Path("data"))
            with Repo() as repo:
                repo.add("data")
    except (OSError, shutil.Error) as error:
        raise RunError(f"cannot prepare {workspace}: {getattr(error, 'strerror', None) or error}") from error
    except DvcException as error:
        raise RunError(f"cannot prepare {workspace}: {' '.join(str(error).split())}; delete it") from error
    return workspace
