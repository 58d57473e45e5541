"""dvc.yaml, the stages' signatures and their imports have to say the same."""

import inspect
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.params import Params, read_params
from tasks.stages import STAGES, run_stage
from tasks.workspace.code import stage_code
from tests.conftest import ROOT
from tests.shipped_params import PARAMS_FILE

PIPELINE = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
BUILT_ARGUMENTS = {"tracker", "progress", "until"}  # by run_stage, from no file and no parameter


def test_dvc_yaml_has_the_stages_in_order_without_download() -> None:
    assert STAGES[0] == "download"
    assert list(PIPELINE) == list(STAGES[1:])


def test_stages_are_the_sections_whose_module_defines_them() -> None:
    """Other sections of params.yaml are no stages: `tracking` has a module, but no function of its name."""
    defining = [
        section
        for section in Params.model_fields
        if find_spec(f"tasks.{section}") and hasattr(import_module(f"tasks.{section}"), section)
    ]
    assert list(STAGES) == defining


@pytest.mark.parametrize("stage", PIPELINE)
def test_stage_name_is_used_consistently(stage: str) -> None:
    assert PIPELINE[stage]["cmd"] == f"python -m tasks {stage}"
    assert stage in Params.model_fields
    assert callable(getattr(import_module(f"tasks.{stage}"), stage))
    assert (ROOT / "tests" / "tasks" / f"test_{stage}.py").is_file()


@pytest.mark.parametrize("stage", PIPELINE)
def test_dvc_yaml_deps_are_the_code_of_the_stage(stage: str) -> None:
    declared = [dep for dep in PIPELINE[stage]["deps"] if not dep.startswith("${")]
    assert declared == stage_code(stage)


@pytest.mark.parametrize("stage", PIPELINE)
def test_dvc_yaml_files_and_params_match_the_signature(stage: str) -> None:
    entry = PIPELINE[stage]
    outs = [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])]
    outs = [next(iter(out)) if isinstance(out, dict) else out for out in outs]
    deps = [dep for dep in entry["deps"] if dep.startswith("${")]
    names = (
        set(inspect.signature(getattr(import_module(f"tasks.{stage}"), stage)).parameters) - BUILT_ARGUMENTS
    )
    paths = {name for name in names if name in type(read_params(PARAMS_FILE).paths).model_fields}
    assert {f"${{paths.{name}}}" for name in paths} == {*deps, *outs}
    assert set(entry["params"]) == {stage if name == "config" else name for name in names - paths}


@pytest.mark.parametrize("stage", [stage for stage in PIPELINE if stage != "report"])
def test_dvc_run_cache_is_on(stage: str) -> None:
    """DVC leaves it off for a stage with outputs that persist or (metrics and plots aside) are not cached.

    The report's page is such an output: in git, not a plot, and built in two seconds.
    """
    outs = [out for out in PIPELINE[stage].get("outs", []) if isinstance(out, dict)]
    assert not [
        out for out in outs if any(not o.get("cache", True) or o.get("persist") for o in out.values())
    ]


def test_run_stage_wires_arguments_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    received: dict[str, Any] = {}

    def split(data: Path, dataset: str, config: Any) -> dict[str, Any]:
        received.update(data=data, dataset=dataset, config=config)
        return {"images": 3}

    monkeypatch.setattr("tasks.split.split", split)
    params = read_params(PARAMS_FILE)
    assert run_stage("split", params) == {"images": 3}
    assert received == {"data": Path(params.paths.data), "dataset": params.dataset, "config": params.split}
