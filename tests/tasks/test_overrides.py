from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from tasks import overrides as module
from tasks.overrides import (
    Overrides,
    merge_overrides,
    parse_overrides,
    read_recipe,
    recipe_defaults,
    with_overrides,
    write_overrides,
)
from tasks.params import read_params
from tasks.params.train import TrainConfig, _recipe_field
from tasks.workspace.errors import InputError
from tests.conftest import ROOT
from tests.shipped_params import PARAMS_FILE

RECIPES = ROOT / "recipes"
NAMES = sorted(file.stem for file in RECIPES.glob("*.yaml"))


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    file = tmp_path / "params.yaml"
    file.write_bytes(PARAMS_FILE.read_bytes())
    return file


def test_write_overrides_changes_only_the_values(params_file: Path) -> None:
    before = params_file.read_text(encoding="utf-8").splitlines()
    write_overrides(params_file, parse_overrides(["train.epochs=77", "train.lr=5e-4"]))
    after = params_file.read_text(encoding="utf-8").splitlines()
    assert len(before) == len(after)
    assert [line.split("#")[0].strip() for line, old in zip(after, before, strict=True) if line != old] == [
        "epochs: 77",
        "lr: 0.0005",
    ]
    assert read_params(params_file).train.epochs == 77


def test_write_overrides_of_nothing_leaves_the_same_bytes(params_file: Path) -> None:
    write_overrides(params_file, parse_overrides([]))
    assert params_file.read_bytes() == PARAMS_FILE.read_bytes()


def test_write_overrides_with_incompatible_values_writes_nothing(params_file: Path) -> None:
    with pytest.raises(InputError, match=r"train: warmup_epochs 24 must be smaller than epochs \(24\)"):
        write_overrides(params_file, parse_overrides(["train.warmup_epochs=24.0"]))
    assert params_file.read_bytes() == PARAMS_FILE.read_bytes()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epoch=5", "train.epoch is not a parameter; did you mean epochs?"),
        ("trian.epochs=5", "trian is not a parameter; did you mean train?"),
        ("train.epochs=0", "train.epochs should be an integer from 1 to 100000, not 0"),
        ("train.epochs", "expected section.key=value"),
        ("train=5", "expected section.key=value"),
        ("train.lr=[", "the value, line 2: not YAML"),
        ("paths.data=/tmp", "paths is not a parameter"),
    ],
)
def test_parse_overrides_with_error_is_one_line(assignment: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_overrides([assignment])
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@given(st.integers(min_value=1, max_value=100_000))
def test_parse_overrides_gives_typed_values(epochs: int) -> None:
    overrides = parse_overrides([f"train.epochs={epochs}"])
    assert overrides.model_dump(exclude_none=True) == {"train": {"epochs": epochs}}


def test_overrides_schema_has_bounds_and_all_keys() -> None:
    with pytest.raises(ValidationError):
        Overrides.model_validate({"train": {"lr": -1.0}})
    form = Overrides.model_json_schema()["$defs"]["TrainConfig"]["properties"]
    assert form.keys() == TrainConfig.model_fields.keys()
    assert all(field["description"] for field in form.values())


def test_recipe_defaults_cover_all_but_run_and_machine() -> None:
    assert TrainConfig.model_fields.keys() - recipe_defaults().keys() == {
        "seed",
        "device",
        "num_threads",
        "processes",
        "fused",
        "deterministic",
        "checkpoint_url",
        "checkpoint_interval_s",
    }


@pytest.mark.parametrize("name", NAMES)
def test_recipe_file_says_only_what_differs_from_defaults(name: str) -> None:
    values = YAML(typ="safe").load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    assert values.keys() == {"train"}
    assert not values["train"].items() & recipe_defaults().items()
    assert values["train"].keys() <= recipe_defaults().keys()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("before", NAMES)
def test_recipe_after_another_sets_every_key(before: str, name: str) -> None:
    """A recipe does the same whichever was there before, and changes neither seed nor machine."""
    shipped = with_overrides(
        read_params(PARAMS_FILE), parse_overrides(["train.seed=7", "train.num_threads=1"])
    )
    recipe = read_recipe(name, RECIPES)
    directly = with_overrides(shipped, recipe)
    assert with_overrides(with_overrides(shipped, read_recipe(before, RECIPES)), recipe) == directly
    assert (directly.train.seed, directly.train.num_threads) == (7, 1)
    values = YAML(typ="safe").load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    assert dict(directly.train).items() >= (recipe_defaults() | values["train"]).items()


def test_recipe_talk_after_net76_restores_shipped_params(params_file: Path) -> None:
    write_overrides(params_file, read_recipe("net76", RECIPES))
    assert read_params(params_file).train.lr_schedule == "cosine"
    write_overrides(params_file, read_recipe("talk", RECIPES))
    assert read_params(params_file) == read_params(PARAMS_FILE)


def test_recipe_with_new_parameter_takes_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """No recipe has to be edited for a new parameter, and a recipe resets it."""

    class Extended(TrainConfig):
        new: int = _recipe_field(3, "a parameter that no recipe names")

    monkeypatch.setattr(module, "TrainConfig", Extended)
    assert recipe_defaults()["new"] == 3


def test_merge_overrides_prefers_second() -> None:
    both = merge_overrides(read_recipe("net76", RECIPES), parse_overrides(["train.epochs=3", "split.seed=1"]))
    values = both.model_dump(exclude_none=True)
    assert (values["train"]["epochs"], values["train"]["translate"], values["split"]) == (3, 2, {"seed": 1})


def test_read_recipe_unknown_name_lists_recipes() -> None:
    with pytest.raises(
        InputError, match="unknown recipe net77; choose one of cpu93, fast94, net76, resnet18"
    ):
        read_recipe("net77", RECIPES)


def test_read_recipe_from_own_file_stands_on_defaults(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("train: {epochs: 3}")
    assert read_recipe(str(own)).model_dump(exclude_none=True) == {"train": recipe_defaults() | {"epochs": 3}}
    own.write_text("train: {epoks: 3}")
    with pytest.raises(InputError, match=r"train\.epoks is not a parameter; did you mean epochs"):
        read_recipe(str(own))
