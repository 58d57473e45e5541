"""Reproduce a decision's model: run the stages in a clean clone, and compare the hashes of what they make."""

import contextlib
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from dvc.repo import Repo
from dvc_data.hashfile.hash_info import HashInfo
from pydantic import BaseModel, Field, ValidationError
from ruamel.yaml import YAML

from flows.reproduce.clone import COMMIT, fetch_object, open_clone
from flows.reproduce.record import DIRTY
from flows.versions.dvc_data import DATA, data_stage
from flows.versions.dvc_repro import open_repo, repro_stage, topological_stages
from tasks.inference.onnx_classifier import load_model
from tasks.params import PARAMS
from tasks.registry.ledger import LedgerEntry, current_champion, read_ledger
from tasks.reproduce.difference import compare_predictions, describe_difference
from tasks.reproduce.machine import describe_machine_change
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import hash_file
from tasks.workspace.splits import load_splits, load_tensors

MD5 = r"[0-9a-f]{32}(\.dir)?"


class Record(BaseModel):
    """What a line of the ledger records for `reproduce` (`flows.reproduce.record`)."""

    params: dict[str, Any]
    data_dvc: str
    pretrained_sha256: str = ""
    outputs: dict[str, dict[str, Annotated[str, Field(pattern=f"^{MD5}$")]]]
    machine: dict[str, Any]

    @property
    def paths(self) -> dict[str, str]:
        return dict(self.params["paths"])


@dataclass(frozen=True)
class Difference:
    """The first output that is not as recorded."""

    stage: str
    path: str
    recorded_md5: str


def reproduce(version: int | None, keep: Path | None) -> str:
    """Make the model of a version again, by default the champion's, and say in one line that it is the same.

    `RunError` where it differs, and from which stage on; `InputError` where it cannot be made again.
    """
    started = time.perf_counter()
    entry = find_entry(read_ledger(), version)
    name = f"{'champion' if entry.is_promotion else 'version'} {entry.version}"
    try:
        record, commit = require_record(entry)
        with open_clone(commit, keep) as (folder, project):
            pretrained = Path(record.paths["pretrained"], record.params["train"]["weights"]).absolute()
            with contextlib.chdir(folder):
                _write_inputs(record, pretrained)
                with open_repo() as clone:
                    _check_out_data(clone, project)
                    outcome = _run_and_compare(clone, project, record, entry)
    except InputError as error:
        raise InputError(f"{name} cannot be reproduced: {error}") from error
    except RunError as error:
        raise RunError(f"{name} was not reproduced: {error}") from error
    return f"{name} reproduced, {outcome}, in {time.perf_counter() - started:.0f} s"


def find_entry(entries: list[LedgerEntry], version: int | None) -> LedgerEntry:
    """Return the version's entry, by default the champion's. `InputError` if there is none."""
    if version is None:
        champion = current_champion(entries)
        if champion is None:
            raise InputError("no model has been promoted yet; to reproduce another one, give its version")
        return champion
    entry = next((entry for entry in entries if entry.version == version), None)
    if entry is None:
        raise InputError(f"the ledger has no version {version}")
    return entry


def require_record(entry: LedgerEntry) -> tuple[Record, str]:
    """Return what the entry records, and the commit. `InputError` where that is not enough."""
    commit = entry.provenance.get("commit", "")
    if not entry.reproduction:
        raise InputError("its line is of an earlier version, which did not record parameters and data")
    if commit.endswith(DIRTY):
        raise InputError(f"its code differed from the commit {commit[:12]}, and is in no commit")
    if not COMMIT.fullmatch(commit):
        raise InputError("it was made outside of Git, so its code is in no commit")
    try:
        record = Record.model_validate(entry.reproduction)
        used = [*record.paths.values(), record.params["train"]["weights"], record.params["tracking"]["mode"]]
        outside = [path for path in used if not _is_inside(path)]
        float(record.params["compare"]["parity_atol"])
    except (ValidationError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"its line does not record what is needed ({' '.join(str(error).split())})"
        ) from None
    if outside:
        raise InputError(f"its parameters name a path outside of the project: {outside[0]}")
    return record, commit


def _is_inside(path: str) -> bool:
    """Return whether the path, relative to the project, stays in it."""
    return not Path(path).is_absolute() and ".." not in Path(path).parts


def _write_inputs(record: Record, pretrained: Path) -> None:
    """Write parameters and data.dvc of the record, so that no stage is up to date and each one runs."""
    with PARAMS.open("w", encoding="utf-8") as params:
        # A training that is repeated appears in no list of trainings, and leaves alone the checkpoints that a
        # run keeps at a URL. Neither changes what is made.
        tracking = {**record.params["tracking"], "mode": "disabled"}
        train = {**record.params["train"], "checkpoint_url": ""}
        YAML().dump({**record.params, "tracking": tracking, "train": train}, params)
    Path(DATA).write_text(record.data_dvc, encoding="utf-8")
    Path("dvc.lock").unlink(missing_ok=True)
    if not record.pretrained_sha256:
        return
    target = Path(record.paths["pretrained"], record.params["train"]["weights"])
    for file in (target, pretrained):
        if file.is_file() and hash_file(file, "sha256") == record.pretrained_sha256:
            if file != target:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
            return
    raise InputError(f"{target}, from which its training started, is not there as it was")


def _check_out_data(clone: Repo, project: Repo) -> None:
    """Bring the data into the clone. `InputError` where neither cache nor remote has all of them."""
    stage = data_stage(clone)
    if stage is None:
        raise InputError(f"it was made from data that {DATA} did not record")
    (data,) = stage.outs
    if not Path(data.fs_path).is_relative_to(Path.cwd()) or not re.fullmatch(MD5, str(data.hash_info.value)):
        raise InputError(f"its {DATA} is not one of this project")
    if not fetch_object(clone, project, data.hash_info):
        raise InputError(
            f"neither the DVC cache nor a remote has its data ({data.hash_info.value}) any more; they were "
            "pruned, or never pushed"
        )
    clone.checkout([stage.path])


def _run_and_compare(clone: Repo, project: Repo, record: Record, entry: LedgerEntry) -> str:
    """Run the stages that the record names, in DVC's order, and say how their outputs compare.

    `RunError` at the first one that differs. On another type of machine, the models are compared instead.
    """
    stages = [str(stage.name) for stage in topological_stages(clone) if stage.name in record.outputs]
    if unknown := record.outputs.keys() - set(stages):
        raise InputError(f"its commit has no stage {', '.join(sorted(unknown))}")
    first = None
    for name in stages:
        print(f"{name} ...", file=sys.stderr, flush=True)
        repro_stage(clone, name, partial(_run_stage, name))
        if first is not None:
            continue  # The machine is another one, and the models are compared at the end.
        first = _find_difference(clone, name, record)
        if first and (name == stages[0] or not _describe_machine_change(record)):
            raise RunError(_describe(clone, project, first))
    if first is None:
        if hash_file(Path(record.paths["onnx_model"]), "md5") != entry.model_md5:
            raise RunError("its line names another model than the stages have made")
        return "bit for bit"
    return _compare_models(clone, project, record, entry, first)


def _run_stage(name: str) -> dict[str, Any]:
    """Run a stage as `dvc repro` does, with the clone's code. What it prints goes to standard error."""
    command = [sys.executable, "-m", "tasks", name]
    done = subprocess.run(command, stdout=2, check=False)  # noqa: S603
    if done.returncode:
        raise RunError(f"the stage {name} has failed")
    return {}


def _find_difference(clone: Repo, name: str, record: Record) -> Difference | None:
    (stage,) = (stage for stage in topological_stages(clone) if stage.name == name)
    made = {out.def_path: out.hash_info.value for out in stage.outs}
    for path, md5 in record.outputs[name].items():
        if made.get(path) != md5:
            return Difference(name, path, md5)
    return None


def _describe(clone: Repo, project: Repo, difference: Difference) -> str:
    """Say which stage made something else, and by how much it differs, where the recorded file is at hand."""
    text = f"the stage {difference.stage} has made another {difference.path}"
    try:
        recorded = _fetch_file(clone, project, difference.recorded_md5)
    except RunError as error:
        return f"{text}; by how much it differs is not known: {error}"
    if recorded is None:
        return f"{text}; the recorded one is not in the DVC cache, so by how much is not known"
    return f"{text}: {describe_difference(recorded, Path(difference.path))}"


def _fetch_file(clone: Repo, project: Repo, md5: str) -> Path | None:
    found = fetch_object(clone, project, HashInfo("md5", md5))
    return Path(clone.cache.local.oid_to_path(md5)) if found else None


def _describe_machine_change(record: Record) -> str:
    _, metadata = load_tensors(Path(record.paths["weights"]))
    return describe_machine_change(record.machine, str(metadata["device"]))


def _compare_models(clone: Repo, project: Repo, record: Record, entry: LedgerEntry, first: Difference) -> str:
    """Compare the exported model's predictions with those of the recorded one; `RunError` if they differ."""
    machine = f"on another type of machine ({_describe_machine_change(record)})"
    recorded = _fetch_file(clone, project, entry.model_md5)
    if recorded is None:
        raise RunError(f"{machine}, {_describe(clone, project, first)}; the recorded model is gone as well")
    atol = float(record.params["compare"]["parity_atol"])
    splits, made = Path(record.paths["splits"]), Path(record.paths["onnx_model"])
    difference = compare_predictions(load_model(recorded), load_model(made), load_splits(splits), atol)
    if not difference.is_within(atol):
        raise RunError(f"{machine}, {_describe(clone, project, first)}; {difference} (allowed: {atol:.0e})")
    return f"{machine}: {difference}"
