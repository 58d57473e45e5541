"""Load and validate what users write: each error is one line that names the key and what is allowed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks.workspace.errors import InputError, suggest

ModelT = TypeVar("ModelT", bound=BaseModel)


def load_yaml(file: Path, yaml: YAML | None = None) -> Any:
    """The content of `file`; `InputError` where it cannot be read or is not YAML."""
    try:
        return (yaml or YAML(typ="safe")).load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    except YAMLError as error:
        raise InputError(f"{file} is not YAML: {' '.join(str(error).split())}") from error


def validate(model: type[ModelT], values: Any, origin: str) -> ModelT:
    """The values as `model`; `InputError` with one line per error, each after `origin`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = (f"{origin}: {_format_error(model, details)}" for details in error.errors())
        raise InputError("\n".join(lines)) from None


def _format_error(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"]) or "the file"
    match error["type"]:
        case "extra_forbidden":
            *section, name = error["loc"]
            return f"{key} is not a parameter; {suggest(str(name), _known_keys(model, section))}"
        case "missing":
            return f"{key} is missing"
        case "value_error":
            return f"{key}: {error['ctx']['error']}"
    message = (
        error["msg"].removeprefix("Input ").replace("a valid integer", "an integer").replace("valid ", "")
    )
    return f"{key} {message}, not {error['input']!r}"


def _known_keys(model: type[BaseModel], section: list[Any]) -> list[str]:
    for part in section:
        annotation = model.model_fields[part].annotation  # a section, or a section or None
        (model,) = (kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields"))
    return list(model.model_fields)
