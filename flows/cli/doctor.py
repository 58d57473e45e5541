"""The command `cifarflow doctor` checks the setup, and says how to mend what is wrong."""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import click
from filelock import FileLock, Timeout
from packaging.requirements import Requirement
from rich.console import Console
from rich.text import Text

from flows.cli.project import enter_project
from flows.run.lock import LOCK_FILE, read_holder
from flows.server.api import check_api, load_settings, takes_anybodys_requests
from flows.server.local import find_local_server, find_unprotected_servers
from flows.versions.dvc_data import check_data_recorded
from flows.versions.dvc_repro import change_reason, open_repo, topological_stages
from flows.versions.git import find_problem, run_git
from tasks.dataset.catalog import open_dataset
from tasks.drift.shift import find_noticeable_shifts
from tasks.params import PARAMS, DriftConfig, Params, read_params
from tasks.registry.ledger import LEDGER, TRUNCATED_SUFFIX, read_content
from tasks.registry.ledger_lines import SET_ASIDE
from tasks.registry.sensitivity import describe_sensitivity, measure_discordance
from tasks.registry.serving_model import require_known_champion, resolve_serving_model
from tasks.tracking import has_api_key, resolve_mode
from tasks.workspace.errors import RunError
from tasks.workspace.splits import load_splits

REQUIRED_DISK_BYTES = 1_000_000_000  # This holds the data, the splits, and a copy of both in DVC's cache.
STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


@dataclass(frozen=True)
class Check:
    subject: str
    status: Literal["ok", "warning", "error"]
    """`error` would make a run fail"""
    text: str
    fix: str = ""
    """a command that mends it, if one does"""


@click.command()
def doctor() -> int:
    """Check the setup; for every problem, print the command that fixes it.

    \b
    Example:
      cifarflow doctor
    """
    enter_project()
    return check_setup()


def check_setup() -> int:
    """Print the checks as they finish. Returns the exit code, which is 1 where a check found an error."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    errors, is_up_to_date = 0, False
    for check in run_checks():
        is_up_to_date |= (check.subject, check.status) == ("stages", "ok")
        line = Text(f"{check.status:<7} ", STYLES[check.status]) + Text(f"{check.subject:<9} {check.text}")
        console.print(line)
        if check.fix:
            console.print(f"                  fix: {check.fix}")
        errors += check.status == "error"
    if errors:
        console.print(f"{errors} problem{'s' if errors > 1 else ''} would make a run fail")
    elif is_up_to_date:
        console.print("nothing is wrong, and all results are up to date; next: cifarflow predict IMAGE")
    else:
        console.print("nothing is wrong; next: cifarflow run")
    return 1 if errors else 0


def run_checks() -> Iterator[Check]:
    yield from _python()
    params: Params | None = None
    try:
        params = read_params(PARAMS)
    except RunError as error:
        yield Check("params", "error", f"{error}; correct it in an editor")
    else:
        yield Check("params", "ok", f"{PARAMS} is valid")
    for check in (_disk, _git, _dvc, _lock, _prefect):
        yield from check()
    if params is None:
        yield from _ledger()
        return
    for check_with_params in (_data, _device, _tracking, _champion, _decisions):
        yield from check_with_params(params)


def _python() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield Check(
            "Python", "error", f"{version}; 3.11 to 3.13 are supported", "make PYTHON=python3.12 setup"
        )
    else:
        yield Check("Python", "ok", version)
    try:
        lines = Path("requirements.lock").read_text(encoding="utf-8").splitlines()
    except OSError:
        yield Check("packages", "warning", "no requirements.lock to compare with")
        return
    pinned = [Requirement(line.removesuffix("\\").strip()) for line in lines if line and line[0].isalnum()]
    wanted = [pin for pin in pinned if pin.marker is None or pin.marker.evaluate()]
    differing = [pin.name for pin in wanted if not _satisfies_pin(pin)]
    if differing:
        names = ", ".join(differing[:5]) + (" …" if len(differing) > 5 else "")
        text = f"{len(differing)} of {len(wanted)} packages differ from requirements.lock: {names}"
        yield Check("packages", "error", text, "make -B setup")
    else:
        yield Check("packages", "ok", f"all {len(wanted)} as locked")


def _satisfies_pin(pin: Requirement) -> bool:
    try:
        return pin.specifier.contains(metadata.version(pin.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def _data(params: Params) -> Iterator[Check]:
    folder = Path(params.paths.data)
    dataset = open_dataset(params.dataset)
    missing = dataset.find_missing(folder)
    if missing is not None:
        is_set = missing.url_variable in os.environ
        source = missing.url_variable if is_set else "its sources in params.yaml"
        text = f"not downloaded yet; a run downloads it from {source}"
        yield Check("data", "warning", text, "python -m tasks download")
        return
    fix = (
        f"dvc add {folder}" if dataset.is_own else f"mv {folder} {folder}.altered && python -m tasks download"
    )
    try:
        text = dataset.verify(folder)
        if dataset.is_own:
            with open_repo() as repo:
                check_data_recorded(repo)
            text += ", as recorded"
    except RunError as error:
        yield Check("data", "error", str(error).splitlines()[0], fix)
    else:
        yield Check("data", "ok", text)


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(Path()).free
    text = f"{free / 1e9:.1f} GB free"
    if free < REQUIRED_DISK_BYTES:
        yield Check(
            "disk",
            "error",
            f"{text}, a run needs up to {REQUIRED_DISK_BYTES / 1e9:.0f} GB",
            "cifarflow prune",
        )
    else:
        yield Check("disk", "ok", text)


def _device(params: Params) -> Iterator[Check]:
    import torch

    from tasks.training.compile import find_compiler

    cores = f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    if torch.cuda.is_available():
        yield Check("device", "ok", f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    elif params.train.device == "cuda":
        yield Check(
            "device",
            "error",
            "train.device is cuda, but there is no CUDA device",
            "cifarflow run --set train.device=auto",
        )
    else:
        yield Check("device", "ok", f"CPU ({cores}), PyTorch {torch.__version__}, float32")
        if params.train.has_fast_path and params.train.fused is not False and find_compiler() is None:
            text = "no C++ compiler, with which net trains in half of the time"
            yield Check("compiler", "warning", text, "apt-get install g++")


def _git() -> Iterator[Check]:
    problem = find_problem()
    if problem is None:
        yield Check("Git", "ok", f"commit {run_git('rev-parse', '--short', 'HEAD')}")
    elif problem.is_refused:
        yield Check("Git", "error", problem.text, problem.fix)
    else:
        yield Check("Git", "warning", f"{problem.text}: decisions name no commit", problem.fix)


def _dvc() -> Iterator[Check]:
    try:
        with open_repo() as repo:
            remote = repo.config["core"].get("remote")
            outdated = [str(stage.name) for stage in topological_stages(repo) if change_reason(stage)]
    except RunError as error:
        fix = "dvc init" if not Path(".dvc").exists() else ""
        yield Check("DVC", "error", str(error).splitlines()[0], fix)
        return
    if remote:
        yield Check("DVC", "ok", f"remote {remote}")
    else:
        yield Check(
            "DVC",
            "warning",
            "no DVC remote: artifacts exist only on this machine",
            "dvc remote add -d NAME URL",
        )
    if outdated:
        yield Check("stages", "warning", f"to be run: {', '.join(outdated)}", "cifarflow run")
    else:
        yield Check("stages", "ok", "all up to date")


def _lock() -> Iterator[Check]:
    try:
        with FileLock(LOCK_FILE, timeout=0):
            yield Check("locks", "ok", "no run in progress")
    except Timeout:
        yield Check("locks", "warning", f"{read_holder()} is running; another run would wait or be rejected")


def _prefect() -> Iterator[Check]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import FlowRunSort

    try:
        settings = load_settings()
        if not settings.api.url:
            server = find_local_server()
            text = f"local server at {server.dashboard}" if server else "the next run starts a local server"
            yield Check("Prefect", "ok", text)
            for pid in find_unprotected_servers():
                text = "a local server of an earlier version does what anybody on this machine asks"
                yield Check("access", "warning", text, f"kill {pid}")
            return
        address = check_api(settings)
    except RunError as error:
        yield Check("Prefect", "error", str(error), "prefect server start")
        return
    with get_client(sync_client=True) as client:
        pools = [pool.name for pool in client.read_work_pools()]
        runs = client.read_flow_runs(limit=3, sort=FlowRunSort.START_TIME_DESC)
    yield Check("Prefect", "ok", f"server at {address}, work pools: {', '.join(pools) or 'none'}")
    if takes_anybodys_requests(str(settings.api.url)):
        text = f"the server at {address} asks for no password: whoever reaches it can run code in its workers"
        fix = "PREFECT_SERVER_API_AUTH_STRING=admin:a-long-password prefect server start"
        yield Check("access", "warning", f"{text} (docs/deployment-setup.md)", fix)
    for run in runs:
        yield Check(
            "last run",
            "ok" if run.state and run.state.is_completed() else "warning",
            f"{run.name}: {run.state_name}",
        )


def _tracking(params: Params) -> Iterator[Check]:
    mode = resolve_mode(params.tracking)
    if mode == "online" and not has_api_key():
        yield Check("W&B", "warning", "mode online without a key: runs are kept offline", "wandb login")
    elif params.tracking.mode == "auto":
        why = "a key is set" if has_api_key() else "no key is set"
        yield Check("W&B", "ok", f"mode auto: {mode}, {why}")
    else:
        yield Check("W&B", "ok", f"mode {mode}")


def _champion(params: Params) -> Iterator[Check]:
    """Check the ledger and the model that predictions use."""
    found = list(_ledger())
    yield from found
    if any(check.status == "error" for check in found):
        return  # The ledger does not say which model is the champion.
    model = Path(params.paths.onnx_model)
    try:
        served, what = resolve_serving_model(model)
    except RunError as error:
        problem, _, fix = str(error).partition("restore it with: ")
        yield Check("champion", "warning", f"predictions fail: {problem.rstrip('; ')}", fix)
        return
    if not served.is_file():
        yield Check("champion", "warning", "no champion and no exported model yet", "cifarflow run")
    elif served == model:
        yield Check("champion", "ok", f"no model promoted yet; predictions use {model}")
    else:
        yield Check("champion", "ok", what)


def _decisions(params: Params) -> Iterator[Check]:
    """Say what comparisons of models can find; nothing before the first split."""
    try:
        data, entries = load_splits(Path(params.paths.splits)), read_content().entries
    except RunError:
        return  # The other checks say what is wrong with the ledger.
    num_images = len(data.val.labels)
    is_enough, text = describe_sensitivity(num_images, params.compare, measure_discordance(entries))
    yield Check("decisions", "ok" if is_enough else "warning", text)
    yield from _drift(num_images, len(data.metadata["classes"]), params.drift)


def _drift(num_images: int, num_classes: int, config: DriftConfig) -> Iterator[Check]:
    """Say how large a shift the drift test notices, in the smallest batch and in one ten times as large."""
    try:
        sizes = find_noticeable_shifts(num_images, num_classes, config.confidence, config.min_effect)
    except RunError as error:
        yield Check("drift", "warning", str(error))
        return
    found = ", ".join(f"KS {shift:.2f} in {size:,}" for size, shift in sizes.items())
    yield Check("drift", "ok", f"the smallest shift that is noticed in a batch of new images: {found}")


def _ledger() -> Iterator[Check]:
    """Name what is damaged in the ledger. It is an error where the ledger may not name the champion."""
    try:
        content = read_content()
        require_known_champion()
    except RunError as error:
        problem, _, fix = str(error).partition("restore it with: ")
        yield Check("ledger", "error", problem.rstrip("; "), fix)
        return
    if content.truncated:
        problem = f"the last line of {LEDGER} is cut short"
        kept = f"{LEDGER}{TRUNCATED_SUFFIX}"
        yield Check("ledger", "warning", f"{problem}; the next decision moves what is left to {kept}")
    set_aside = sum(line.startswith(SET_ASIDE) for line in content.intact.splitlines())
    if set_aside:
        yield Check("ledger", "warning", f"{set_aside} damaged or missing lines of {LEDGER} are set aside")
