"""Bring the model that the ledger names as champion from DVC's cache or remote to `registry/`."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dvc.config import NoRemoteError
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile.hash_info import HashInfo
from ruamel.yaml import YAML

from flows.versions.dvc_repro import topological_stages
from tasks.registry import ledger
from tasks.registry.ledger import CHAMPION, CHAMPION_DVC_FILE, CHAMPION_INT8, LedgerEntry
from tasks.registry.serving_model import require_known_champion
from tasks.validation import load_yaml
from tasks.workspace.code import code_sha256
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import atomic_write, hash_file


def promote(repo: Repo, entry: LedgerEntry) -> LedgerEntry:
    """Make the entry's model the champion. Appending to the ledger is the one step that decides.

    `RunError` where DVC does not have the model; then nothing has changed.
    """
    for md5 in filter(None, (entry.model_md5, entry.int8_md5)):
        fetch_model(repo, md5)
    entry = ledger.append(entry)
    _write_champion(repo, entry)
    return entry


def find_outcome(entries: list[LedgerEntry], decision: LedgerEntry) -> LedgerEntry:
    """Return the rollback by which the same flow run has taken its promotion back, or else the decision."""
    following = (entry for entry in entries if entry.version > decision.version)
    for entry in following:
        if entry.decision == "rolled_back" and entry.flow_run_id == decision.flow_run_id:
            return entry
    return decision


def restore_champion(repo: Repo) -> LedgerEntry:
    """Do what `sync_champion` does; raise `InputError` where there is no champion yet."""
    if ledger.current_champion(ledger.read_ledger()) is None:
        raise InputError("no model has been promoted yet; nothing to restore")
    champion = sync_champion(repo)
    assert champion is not None
    return champion


def sync_champion(repo: Repo) -> LedgerEntry | None:
    """Make the model and its .dvc file those of the ledger's champion, and return its entry.

    This also repairs the state after a crash between writing the ledger and writing these files. `RunError`
    where the ledger has lost lines: then the files may be those of a champion that it does not name.
    """
    require_known_champion()
    champion = ledger.current_champion(ledger.read_ledger())
    if champion is not None:
        _write_champion(repo, champion)
    return champion


def _write_champion(repo: Repo, champion: LedgerEntry) -> None:
    files = [(CHAMPION, champion.model_md5, champion.model_bytes)]
    if champion.int8_md5:
        files.append((CHAMPION_INT8, champion.int8_md5, champion.int8_bytes))
    else:
        CHAMPION_INT8.unlink(missing_ok=True)
    for file, md5, _ in files:
        if not _md5_matches(file, md5):
            cached = fetch_model(repo, md5)
            with atomic_write(file) as temp_path:
                shutil.copyfile(cached, temp_path)
    outs = [{"md5": md5, "size": size, "hash": "md5", "path": file.name} for file, md5, size in files]
    if _read_outs() != outs:
        with atomic_write(CHAMPION_DVC_FILE) as temp_path:
            YAML().dump({"desc": champion.label, "outs": outs}, temp_path)


def _read_outs() -> Any:
    """Return what the .dvc file records; None where it has to be written, for example after a merge."""
    try:
        return load_yaml(CHAMPION_DVC_FILE)["outs"]
    except (InputError, KeyError, TypeError):
        return None


def fetch_model(repo: Repo, md5: str) -> Path:
    """Return the verified file with that hash in DVC's cache; fetch it from the remote if necessary.

    `RunError` where neither has it.
    """
    file = Path(repo.cache.local.oid_to_path(md5))
    if _md5_matches(file, md5):
        return file
    problem = "no DVC remote is configured"
    try:
        repo.cloud.pull([HashInfo("md5", md5)])
    except NoRemoteError:
        pass
    except (DvcException, OSError) as error:
        problem = f"fetching it from the DVC remote failed: {str(error).splitlines()[0]}"
    else:
        problem = "the DVC remote does not have it"
    if not _md5_matches(file, md5):
        raise RunError(f"the model {md5} is not in the DVC cache, and {problem}")
    return file


def _md5_matches(file: Path, md5: str) -> bool:
    return file.is_file() and hash_file(file, "md5") == md5


def provenance_hashes(repo: Repo, params_text: str, metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return hashes of what a model was made from: `data`, `params`, `code` (of all stages) and `weights`."""
    stages = [str(stage.name) for stage in topological_stages(repo)]
    return {
        "data": str(metadata["data_md5"]),
        "params": hashlib.sha256(params_text.encode()).hexdigest(),
        "code": code_sha256(*stages),
        "weights": str(metadata["weights_sha256"]),
    }
