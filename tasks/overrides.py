"""Overrides are values that replace those of `params.yaml`: by `--set`, a recipe or Prefect's form.

A recipe sets all training parameters, so its effect does not depend on the values before: a parameter that
its file leaves out gets its default in `TrainConfig`. Seed, device, threads and determinism have no default
there; a recipe leaves them as they are.
"""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, create_model
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks.params import Params, read_params
from tasks.params.train import TrainConfig
from tasks.params.types import StrictModel
from tasks.validation import describe_yaml_error, load_yaml, validate
from tasks.workspace.errors import InputError
from tasks.workspace.files import write_text

RECIPES = Path("recipes")


def _make_optional(section: Any) -> type[StrictModel]:
    fields: dict[str, Any] = {
        name: (field.rebuild_annotation() | None, Field(None, description=field.description))
        for name, field in section.model_fields.items()
    }
    return create_model(section.__name__, __base__=StrictModel, **fields)


if TYPE_CHECKING:

    class Overrides(BaseModel):
        """Overrides have the sections and keys of `Params`, all of them optional."""

else:
    # Prefect's form offers every section but the paths, with each key optional.
    Overrides = create_model(
        "Overrides",
        __base__=StrictModel,
        **{
            name: (_make_optional(field.annotation) | None, None)
            for name, field in Params.model_fields.items()
            if name not in {"dataset", "paths"}
        },
    )


def parse_overrides(assignments: Iterable[str]) -> Overrides:
    """Parse texts such as `train.epochs=5`, with values in YAML. `InputError` if one is wrong."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        section, dot, name = key.partition(".")
        if equals and key == "dataset":
            raise InputError(
                f"--set {assignment}: edit params.yaml instead, where it is one line (docs/datasets.md)"
            )
        if not (equals and dot and name):
            raise InputError(f"--set {assignment}: expected section.key=value, such as train.epochs=5")
        values.setdefault(section, {})[name] = parse_value(assignment, text)
    return validate(Overrides, values, "--set")


def parse_value(assignment: str, text: str) -> Any:
    """Parse the YAML value `text`; an `InputError` names the `assignment` that `--set` was given."""
    try:
        return YAML(typ="safe").load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"--set {assignment}: the value{describe_yaml_error(error)}") from None


def read_recipe(name: str, folder: Path = RECIPES) -> Overrides:
    """Read the recipe `folder/NAME.yaml`, or a recipe by the path of its YAML file.

    A training parameter that the recipe does not name gets its default. `InputError` if the recipe is unknown
    or wrong.
    """
    path = Path(name)
    file = path if path.suffix in {".yaml", ".yml"} else folder / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(recipe.stem for recipe in folder.glob("*.yaml")))
        raise InputError(f"unknown recipe {name}; choose one of {known}, or a YAML file")
    defaults = validate(Overrides, {"train": recipe_defaults()}, "tasks/params/train.py")
    return merge_overrides(defaults, validate(Overrides, load_yaml(file), str(file)))


def recipe_defaults() -> dict[str, Any]:
    """Return the defaults in `TrainConfig`, which are the values of an empty recipe."""
    fields = TrainConfig.model_json_schema()["properties"]
    return {name: field["default"] for name, field in fields.items() if "default" in field}


def merge_overrides(first: Overrides, second: Overrides) -> Overrides:
    """Merge two sets of overrides; for a parameter in both, the value of `second` counts."""
    values = first.model_dump(exclude_none=True)
    for section, changes in second.model_dump(exclude_none=True).items():
        values.setdefault(section, {}).update(changes)
    return validate(Overrides, values, "--set")


def with_overrides(params: Params, overrides: Overrides) -> Params:
    """Copy the parameters and apply the overrides. `InputError` if the values do not fit together."""
    # A dump would leave out the parameters that change no result.
    values = {name: dict(section) if isinstance(section, BaseModel) else section for name, section in params}
    for section, changes in overrides.model_dump(exclude_none=True).items():
        values[section].update(changes)
    return validate(Params, values, "--set")


def write_overrides(file: Path, overrides: Overrides) -> None:
    """Write the values into `file`, a `params.yaml`, and keep its comments and layout."""
    yaml = open_yaml()
    read_params(file)
    document = load_yaml(file, yaml)
    for section, values in overrides.model_dump(exclude_none=True).items():
        document[section].update(values)
    text = io.StringIO()
    yaml.dump(document, text)
    validate(
        Params, YAML(typ="safe").load(text.getvalue()), "--set"
    )  # each value may be valid, and all together not
    write_text(file, text.getvalue())


def open_yaml() -> YAML:
    """Return a YAML reader and writer that keeps comments and the layout of `params.yaml`."""
    yaml = YAML()  # the default type keeps comments
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 1000
    return yaml


def copy_params(source: Path, target: Path, dataset: str, sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Copy a `params.yaml` with its comments; set the data set and the values in `sections`."""
    yaml = open_yaml()
    params = yaml.load(source)
    params["dataset"] = dataset
    for section, values in sections.items():
        params[section].update(values)
    yaml.dump(params, target)
