"""The stages by name, and how each gets what its signature asks for."""

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tasks.params import Params
from tasks.tracking import Tracker

STAGES = ("download", "split", "train", "evaluate", "export", "quantize", "benchmark", "report")


def run_stage(
    stage: str, params: Params, progress: Callable[[float, str], None] | None = None
) -> dict[str, Any]:
    """Call the function `stage` of the module `tasks.<stage>`, and give back the few values it reports.

    Its arguments are wired by name: `config` is the stage's own section of `params.yaml`, `tracker` opens
    its W&B run, `progress` is handed on, a name that stands under `paths` is that path, any other name is
    that top-level entry.
    """
    function = getattr(import_module(f"tasks.{stage}"), stage)
    arguments: dict[str, Any] = {}
    for name in inspect.signature(function).parameters:
        if name == "config":
            arguments[name] = getattr(params, stage)
        elif name == "tracker":
            arguments[name] = Tracker(params)
        elif name == "progress":
            arguments[name] = progress
        elif name in type(params.paths).model_fields:
            arguments[name] = Path(getattr(params.paths, name))
        else:
            arguments[name] = getattr(params, name)
    return function(**arguments)  # type: ignore[no-any-return]
