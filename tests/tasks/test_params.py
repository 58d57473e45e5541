from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.params import (
    Overrides,
    TrainConfig,
    merge_overrides,
    parse_overrides,
    read_params,
    read_recipe,
    write_overrides,
)
from tasks.workspace.errors import InputError
from tests.conftest import ROOT

OURS = ROOT / "params.yaml"


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    file = tmp_path / "params.yaml"
    file.write_text(OURS.read_text(encoding="utf-8"), encoding="utf-8")
    return file


def changed(file: Path, before: str, after: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after), encoding="utf-8")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("  lr: 0.001", "  lr: 0.001\n  epoch: 1", "train.epoch is not a parameter; did you mean epochs?"),
        ("  lr: 0.001", "  lr: 0.001\n  zzz: 1", "train.zzz is not a parameter; known here: network"),
        ("  epochs: ", "  epochs: x", "train.epochs should be an integer, not 'x"),
        ("  lr: 0.001", "  lr: '0.001'", "train.lr should be a number, not '0.001'"),
        ("  lr: 0.001", "  lr: 0", "train.lr should be greater than 0, not 0"),
        ("  lr: 0.001", "  lr: .nan", "train.lr should be a finite number, not nan"),
        ("  val_fraction: 0.1", "  val_fraction: 1.5", "split.val_fraction should be less than 1, not 1.5"),
        ("  val_fraction: 0.1", "", "split.val_fraction is missing"),
        ("dataset: CIFAR-10", "dataset: MNIST", "dataset should be 'CIFAR-10' or 'sample', not 'MNIST'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(
    params_file: Path, before: str, after: str, message: str
) -> None:
    changed(params_file, before, after)
    with pytest.raises(InputError) as caught:
        read_params(params_file)
    assert str(caught.value).startswith(f"params.yaml: {message}")
    assert len(str(caught.value).splitlines()) == 1


def test_every_mistake_is_named(params_file: Path) -> None:
    changed(params_file, "  lr: 0.001", "  lr: -1")
    changed(params_file, "  val_fraction: 0.1", "  val_fraction: 0")
    with pytest.raises(InputError) as caught:
        read_params(params_file)
    assert {line.split()[1] for line in str(caught.value).splitlines()} == {"split.val_fraction", "train.lr"}


@pytest.mark.parametrize("content", ["a: [", "- 1\n", "", "text"])
def test_not_a_parameter_file(tmp_path: Path, content: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(content)
    with pytest.raises(InputError, match=r"params\.yaml"):
        read_params(file)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_params(tmp_path / "params.yaml")


def test_override_writes_the_value_and_nothing_else(params_file: Path) -> None:
    before = params_file.read_text(encoding="utf-8").splitlines()
    write_overrides(params_file, parse_overrides(["train.epochs=77", "train.lr=5e-4"]))
    after = params_file.read_text(encoding="utf-8").splitlines()
    assert len(before) == len(after)
    assert [line.split("#")[0].strip() for line, old in zip(after, before, strict=True) if line != old] == [
        "epochs: 77",
        "lr: 0.0005",
    ]
    assert read_params(params_file).train.epochs == 77


def test_override_of_nothing_leaves_the_file_as_it_is(params_file: Path) -> None:
    write_overrides(params_file, parse_overrides([]))
    assert params_file.read_bytes() == OURS.read_bytes()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epoch=5", "train.epoch is not a parameter; did you mean epochs?"),
        ("trian.epochs=5", "trian is not a parameter; did you mean train?"),
        ("train.epochs=0", "train.epochs should be greater than or equal to 1, not 0"),
        ("train.epochs", "give it as section.key=value"),
        ("train=5", "give it as section.key=value"),
        ("train.lr=[", "the value is not YAML"),
        ("paths.data=/tmp", "paths is not a parameter"),
    ],
)
def test_wrong_assignment_is_one_line(assignment: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_overrides([assignment])
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@given(st.integers(min_value=1, max_value=10**6))
def test_assignments_are_typed(epochs: int) -> None:
    overrides = parse_overrides([f"train.epochs={epochs}"])
    assert overrides.model_dump(exclude_none=True) == {"train": {"epochs": epochs}}


def test_the_form_knows_the_limits() -> None:
    with pytest.raises(ValidationError):
        Overrides.model_validate({"train": {"lr": -1.0}})
    form = Overrides.model_json_schema()["$defs"]["Train"]["properties"]
    assert form.keys() == TrainConfig.model_fields.keys()


def test_values_that_do_not_go_together_are_not_written(params_file: Path) -> None:
    before = params_file.read_bytes()
    with pytest.raises(InputError, match=r"train: warmup_epochs 24 leaves nothing of 24 epochs"):
        write_overrides(params_file, parse_overrides(["train.warmup_epochs=24.0"]))
    assert params_file.read_bytes() == before


RECIPES = OURS.parent / "recipes"


@pytest.mark.parametrize("name", sorted(file.stem for file in RECIPES.glob("*.yaml")))
def test_a_recipe_says_all_that_a_recipe_can_say(params_file: Path, name: str) -> None:
    """So that a recipe is what it is, whichever was there before."""
    recipe = read_recipe(name, RECIPES)
    said = recipe.model_dump(exclude_none=True)["train"]
    assert TrainConfig.model_fields.keys() - said.keys() == {"seed", "device", "threads", "deterministic"}
    write_overrides(params_file, recipe)
    assert read_params(params_file).train.model_dump().items() >= said.items()


def test_the_talks_recipe_is_the_default(params_file: Path) -> None:
    write_overrides(params_file, read_recipe("net76", RECIPES))
    assert params_file.read_bytes() != OURS.read_bytes()
    write_overrides(params_file, read_recipe("talk", RECIPES))
    assert read_params(params_file) == read_params(OURS)


def test_set_goes_beyond_the_recipe() -> None:
    both = merge_overrides(read_recipe("net76", RECIPES), parse_overrides(["train.epochs=3", "split.seed=1"]))
    values = both.model_dump(exclude_none=True)
    assert (values["train"]["epochs"], values["train"]["shift"], values["split"]) == (3, 2, {"seed": 1})


def test_a_recipe_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no recipe net77; there are fast94, net76, strong96, talk"):
        read_recipe("net77", RECIPES)
    (tmp_path / "own.yaml").write_text("train: {epoks: 3}")
    with pytest.raises(InputError, match=r"train\.epoks is not a parameter; did you mean epochs"):
        read_recipe(str(tmp_path / "own.yaml"))
