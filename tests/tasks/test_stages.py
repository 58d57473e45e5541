"""dvc.yaml, the stages' signatures and their imports have to say the same."""

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.params import Params, read_params
from tasks.stages import STAGES, run_stage
from tasks.workspace.code import stage_code
from tests.conftest import ROOT

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
GIVEN = {"tracker", "progress"}  # what run_stage makes, and no file or parameter holds


def test_the_graph_holds_every_stage_but_the_download() -> None:
    assert list(PIPELINE) == [stage for stage in STAGES if stage != "download"]


@pytest.mark.parametrize("stage", PIPELINE)
def test_one_word_in_all_places(stage: str) -> None:
    assert PIPELINE[stage]["cmd"] == f"python -m tasks {stage}"
    assert stage in Params.model_fields
    assert callable(getattr(import_module(f"tasks.{stage}"), stage))
    assert (ROOT / "tests" / "tasks" / f"test_{stage}.py").is_file()


@pytest.mark.parametrize("stage", PIPELINE)
def test_dvc_yaml_lists_the_code_of_the_stage(stage: str) -> None:
    declared = [dep for dep in PIPELINE[stage]["deps"] if not dep.startswith("${")]
    assert declared == stage_code(stage)


@pytest.mark.parametrize("stage", PIPELINE)
def test_files_and_parameters_are_those_of_the_signature(stage: str) -> None:
    entry = PIPELINE[stage]
    outs = [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])]
    outs = [next(iter(out)) if isinstance(out, dict) else out for out in outs]
    deps = [dep for dep in entry["deps"] if dep.startswith("${")]
    asked = set(inspect.signature(getattr(import_module(f"tasks.{stage}"), stage)).parameters) - GIVEN
    paths = {name for name in asked if name in type(read_params(ROOT / "params.yaml").paths).model_fields}
    assert {f"${{paths.{name}}}" for name in paths} == {*deps, *outs}
    assert set(entry["params"]) == {stage if name == "config" else name for name in asked - paths}


@pytest.mark.parametrize("stage", [stage for stage in PIPELINE if stage != "report"])
def test_the_run_cache_is_on(stage: str) -> None:
    """DVC leaves it off for a stage with outputs that persist or (metrics and plots aside) are not cached.

    The report's page is such an output: it is in git, it is no plot, and it is made in two seconds.
    """
    outs = [out for out in PIPELINE[stage].get("outs", []) if isinstance(out, dict)]
    assert not [
        out for out in outs if any(not o.get("cache", True) or o.get("persist") for o in out.values())
    ]


def test_arguments_are_wired_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def split(data: Path, dataset: str, config: Any) -> dict[str, Any]:
        given.update(data=data, dataset=dataset, config=config)
        return {"images": 3}

    monkeypatch.setattr("tasks.split.split", split)
    params = read_params(ROOT / "params.yaml")
    assert run_stage("split", params) == {"images": 3}
    assert given == {"data": Path(params.paths.data), "dataset": params.dataset, "config": params.split}
