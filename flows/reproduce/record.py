"""Record with a decision what `cifarflow reproduce` needs to make its model again.

That is the commit, the content of params.yaml and data.dvc, and the hashes of what the stages made. It is
as public as the ledger, so secrets in URLs are left out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dvc.repo import Repo

from flows.versions.dvc_data import DATA
from flows.versions.dvc_repro import topological_stages
from flows.versions.git import find_problem, hide_credentials, run_git
from tasks.params import PARAMS, Params
from tasks.registry.ledger import LedgerEntry
from tasks.validation import load_yaml
from tasks.workspace.files import read_json

DIRTY = "-dirty"
CODE = ("tasks", "models", "dvc.yaml")
"""what the stages run"""


def read_commit() -> dict[str, str]:
    """Return the `commit` that is checked out, with `-dirty` if the code differs from it; {} without Git."""
    if find_problem() is not None:
        return {}
    is_dirty = run_git("status", "--porcelain", "--", *CODE)
    return {"commit": run_git("rev-parse", "HEAD") + (DIRTY if is_dirty else "")}


def record_inputs(repo: Repo, params: Params, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the ledger keeps of the run that has just made the model with this metadata."""
    environment = read_json(Path(params.paths.benchmarks))["environment"]
    data = Path(DATA)
    return {
        "params": _hide_credentials(load_yaml(PARAMS)),
        "data_dvc": hide_credentials(data.read_text(encoding="utf-8")) if data.is_file() else "",
        "pretrained_sha256": metadata.get("pretrained_sha256", ""),
        "outputs": _hash_outputs(repo, params.paths.benchmarks),
        "machine": {
            "device": read_json(Path(params.paths.metrics))["device"],
            **{key: environment[key] for key in ("cpu", "flags", "versions")},
        },
    }


def read_data_file(entry: LedgerEntry) -> str:
    """Return the content that data.dvc had; empty in lines of earlier versions."""
    return str((entry.reproduction or {}).get("data_dvc", ""))


def _hide_credentials(value: Any) -> Any:
    """Hide in all texts of the value what URLs keep secret."""
    if isinstance(value, dict):
        return {key: _hide_credentials(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_hide_credentials(each) for each in value]
    return hide_credentials(value) if isinstance(value, str) else value


def _hash_outputs(repo: Repo, benchmarks: str) -> dict[str, dict[str, str]]:
    """Return the MD5 of each output by its stage, in DVC's order, without what measures or shows times."""
    outputs, timed = {}, {benchmarks}
    for stage in topological_stages(repo):
        paths = {out.def_path for out in stage.outs}
        if timed & paths.union(dep.def_path for dep in stage.deps):
            timed |= paths
            continue
        outputs[str(stage.name)] = {out.def_path: str(out.hash_info.value) for out in stage.outs}
    return outputs
