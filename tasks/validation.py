"""What users write is loaded and validated here.

A message has a line per error, with the key, its value and what is allowed.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from tasks.workspace.errors import InputError, suggest

ModelT = TypeVar("ModelT", bound=BaseModel)
Schema = Mapping[str, Any]

MAX_SHOWN = 60  # number of characters of a value that a message shows
MAX_VALUES = 6  # number of allowed names that a message lists


def load_yaml(file: Path, yaml: YAML | None = None) -> Any:
    """Load a YAML file. `InputError` if it cannot be read, is empty or is not YAML."""
    try:
        content = (yaml or YAML(typ="safe")).load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {file}: it is not UTF-8 text (byte {error.start + 1})") from None
    except (YAMLError, ValueError, RecursionError) as error:  # the last two: huge numbers or deep nesting
        raise InputError(f"{file}{describe_yaml_error(error)}") from None
    if content is None:
        raise InputError(f"{file} is empty; restore it, for example from Git")
    return content


def describe_yaml_error(error: Exception) -> str:
    """Return one line that follows a file's name, such as `, line 3: the key seed is given twice`."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return f" is not YAML: {' '.join(str(error).split())[:200] or type(error).__name__}"
    place = f", line {error.problem_mark.line + 1}"
    if isinstance(error, DuplicateKeyError):
        key = str(error.problem).partition('"')[2].partition('"')[0]
        return f"{place}: the key {key} is given twice"
    return f"{place}: not YAML, {' '.join(str(error.problem).split())}"


def validate(model: type[ModelT], values: Any, origin: str) -> ModelT:
    """Build the `model` from the values. `InputError` has a line per wrong key, beginning with `origin`."""
    if not isinstance(values, Mapping):
        raise InputError(f"{origin} should hold sections of keys, such as `train:`, not {_show(values)}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        schema = model.model_json_schema()
        lines = dict.fromkeys(_format_error(schema, values, details) for details in error.errors())
        raise InputError("\n".join(f"{origin}: {line}" for line in lines)) from None


def _format_error(schema: Schema, values: Any, error: Mapping[str, Any]) -> str:
    """Say in one line what is wrong, from one of pydantic's errors."""
    location = _locate(values, error["loc"])
    key = ".".join(map(str, location))
    match error["type"]:
        case "extra_forbidden" | "invalid_key":
            *section, name = error["loc"]
            known = _find(schema, section)["properties"]
            return f"{key or name} is not a parameter; {suggest(str(name), known)}"
        case "missing":
            key = ".".join(map(str, error["loc"]))
            return f"{key} is missing; it should be {describe_allowed(_find(schema, error['loc']), schema)}"
        case "value_error" if "ctx" in error and error["loc"]:  # a default may be wrong, which `values` lacks
            return f"{key or error['loc'][0]}: {error['ctx']['error']}"
    value = values
    for part in location:
        value = value[part]
    node = _find(schema, location)
    hint = ""
    if len(node.get("enum", [])) > MAX_VALUES and isinstance(value, str):
        suggestion = suggest(value, node["enum"])
        hint = f"; {suggestion}" if suggestion.startswith("did") else ""
    return f"{key} should be {describe_allowed(node, schema)}, not {_show(value)}{hint}"


def _locate(values: Any, location: Sequence[str | int]) -> list[str | int]:
    """Return the part of an error's location that is in the file; the rest names branches of a union."""
    found: list[str | int] = []
    for part in location:
        if not (
            (isinstance(values, Mapping) and part in values)
            or (isinstance(values, list) and isinstance(part, int) and part < len(values))
        ):
            break
        found.append(part)
        values = values[part]  # type: ignore[index]
    return found


def _find(schema: Schema, location: Sequence[str | int]) -> Schema:
    """Return the JSON schema at a location, with references resolved and None removed from unions."""
    node = _resolve(schema, schema)
    for part in location:
        node = _resolve(node["items"] if isinstance(part, int) else node["properties"][part], schema)
    return node


def _resolve(node: Schema, root: Schema) -> Schema:
    if "$ref" in node:
        return _resolve(root["$defs"][node["$ref"].rpartition("/")[2]], root)
    branches = [branch for branch in node.get("anyOf", []) if branch.get("type") != "null"]
    return _resolve(branches[0], root) if len(branches) == 1 else node


def describe_allowed(node: Schema, root: Schema) -> str:
    """Say what a JSON schema allows: `an integer from 1 to 1000`, `true, false or 'alternating'`."""
    node = _resolve(node, root)
    if "anyOf" in node:
        return _join(
            describe_allowed(branch, root) for branch in node["anyOf"] if branch.get("type") != "null"
        )
    if "enum" in node or "const" in node:
        values = [repr(value) for value in node.get("enum", [node.get("const")])]
        if len(values) > MAX_VALUES:
            return f"one of {len(values)} names, such as {', '.join(values[:MAX_VALUES])}"
        return _join(values)
    if node["type"] == "array":
        size = _describe_range({"minimum": node.get("minItems"), "maximum": node.get("maxItems")})
        count = f" of{size.removeprefix(' from')} items" if "minItems" in node else ""
        return f"a list{count}, each item {describe_allowed(node['items'], root)}"
    if node["type"] == "object":
        return f"a section with the keys {', '.join(node['properties'])}"
    words = {"boolean": "true, false", "integer": "an integer", "number": "a number", "string": "text"}
    return words[node["type"]] + _describe_range(node)


def _join(parts: Any) -> str:
    texts = ", ".join(parts).split(", ")
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"


def _describe_range(node: Schema) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    bounds = [
        f"{words} {bound:g}"
        for words, bound in (
            ("at least", low),
            ("greater than", above),
            ("less than", below),
            ("at most", high),
        )
        if bound is not None
    ]
    return f" {' and '.join(bounds)}" if bounds else ""


def _show(value: Any) -> str:
    """Return a value as YAML writes it, shortened."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' * (value < 0)}.inf"
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
