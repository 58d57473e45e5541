"""`run_stage` runs a stage by its name, with the arguments that the stage's signature names."""

import inspect
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tasks.params import Params
from tasks.tracking import Tracker


def _is_stage(name: str) -> bool:
    """Whether `tasks/NAME.py` defines the function NAME; its text tells, since an import takes seconds."""
    file = Path(__file__).with_name(f"{name}.py")
    return file.is_file() and bool(
        re.search(rf"^def {name}\(", file.read_text(encoding="utf-8"), re.MULTILINE)
    )


STAGES = tuple(section for section in Params.model_fields if _is_stage(section))


def run_stage(
    stage: str, params: Params, progress: Callable[[float, str], None] | None = None
) -> dict[str, Any]:
    """Call the function `stage` of the module `tasks.<stage>` and return its metrics.

    The names of the function's parameters say what it gets: `config` is the stage's own section of
    `params.yaml`, `tracker` opens its W&B run, `progress` is passed on, a name in the section `paths` is
    passed as a `Path`, and the name of another section or entry as its value. Other parameters keep their
    default.
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
        elif name in type(params).model_fields:
            arguments[name] = getattr(params, name)
    return function(**arguments)  # type: ignore[no-any-return]
