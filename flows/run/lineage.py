"""Record lineage as Prefect's asset events: the data, what the stages make of them, the champion.

The edges are those of dvc.yaml. `@materialize` would add some: it takes what the task before has made, with
the tasks of a chain, for an input.
"""

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from dvc.output import Output
from dvc.repo import Repo
from prefect.assets import Asset
from prefect.context import AssetContext
from prefect.states import Completed

from flows.versions.dvc_data import data_stage
from flows.versions.dvc_repro import topological_stages
from tasks.registry.ledger import CHAMPION, LedgerEntry


def record_data(repo: Repo) -> None:
    """Record that the data are new, or that images were added to them."""
    stage = data_stage(repo)
    _materialize(stage.outs if stage else [], [])


def record_stage(repo: Repo, name: str) -> None:
    """Record that a stage has made its outputs from its dependencies, among which its code does not count."""
    stages = {str(stage.name): stage for stage in topological_stages(repo)}
    data = data_stage(repo)
    made = {out.fs_path for stage in (*stages.values(), data) if stage for out in stage.outs}
    _materialize(stages[name].outs, [dep.def_path for dep in stages[name].deps if dep.fs_path in made])


def record_champion(entry: LedgerEntry, onnx_model: str) -> None:
    """Record that a model has become the champion."""
    metadata = {"md5": entry.model_md5, "version": entry.version, "decision": entry.decision}
    _emit({CHAMPION.as_posix(): metadata}, [onnx_model])


def _materialize(outs: Iterable[Output], sources: Iterable[str]) -> None:
    _emit({out.def_path: {"md5": out.hash_info.value} for out in outs}, sources)


def _emit(made: dict[str, dict[str, Any]], sources: Iterable[str]) -> None:
    """Emit the events. If that fails, a line says so."""
    try:
        AssetContext(
            downstream_assets={_to_asset(path) for path in made},
            direct_asset_dependencies={_to_asset(path) for path in sources},
            materialization_metadata={_to_asset(path).key: metadata for path, metadata in made.items()},
        ).emit_events(Completed())
    except Exception as error:  # noqa: BLE001 - whatever Prefect's client raises, the run continues
        print(f"lineage not recorded: {type(error).__name__}")


def _to_asset(path: str) -> Asset:
    return Asset(key=f"cifarflow://{quote(path)}")
