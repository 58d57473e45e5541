from pathlib import Path

import pytest

from tasks.overrides import recipe_defaults
from tasks.params import read_params
from tasks.workspace.errors import InputError
from tests.conftest import ROOT

SHIPPED = ROOT / "params.yaml"


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    file = tmp_path / "params.yaml"
    file.write_text(SHIPPED.read_text(encoding="utf-8"), encoding="utf-8")
    return file


def replace_text(file: Path, before: str, after: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after), encoding="utf-8")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("  lr: 0.001", "  lr: 0.001\n  epoch: 1", "train.epoch is not a parameter; did you mean epochs?"),
        ("  lr: 0.001", "  lr: 0.001\n  zzz: 1", "train.zzz is not a parameter; choose one of network, seed"),
        ("  epochs: ", "  epochs: x", "train.epochs should be an integer, not 'x"),
        ("  lr: 0.001", "  lr: '0.001'", "train.lr should be a number, not '0.001'"),
        ("  lr: 0.001", "  lr: 0", "train.lr should be greater than 0, not 0"),
        ("  lr: 0.001", "  lr: .nan", "train.lr should be a finite number, not nan"),
        ("  lr: 0.001", "", "train.lr is missing"),
        ("  val_fraction: 0.1", "  val_fraction: 1.5", "split.val_fraction should be less than 1, not 1.5"),
        ("  val_fraction: 0.1", "", "split.val_fraction is missing"),
        ("dataset: CIFAR-10", "dataset: MNIST", "dataset should be 'CIFAR-10' or 'sample', not 'MNIST'"),
        ("  opset: auto", "  opset: 0", "export.opset: should be auto or an integer from 1 on, not 0"),
    ],
)
def test_read_params_with_error_names_key_in_one_line(
    params_file: Path, before: str, after: str, message: str
) -> None:
    replace_text(params_file, before, after)
    with pytest.raises(InputError) as caught:
        read_params(params_file)
    assert str(caught.value).startswith(f"params.yaml: {message}")
    assert len(str(caught.value).splitlines()) == 1


def test_read_params_with_two_errors_names_both(params_file: Path) -> None:
    replace_text(params_file, "  lr: 0.001", "  lr: -1")
    replace_text(params_file, "  val_fraction: 0.1", "  val_fraction: 0")
    with pytest.raises(InputError) as caught:
        read_params(params_file)
    assert {line.split()[1] for line in str(caught.value).splitlines()} == {"split.val_fraction", "train.lr"}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("warmup_epochs: 0.0", "warmup_epochs: 24.0", "warmup_epochs 24 must be smaller than epochs (24)"),
        ("momentum: 0.9", "momentum: 0.0", "sgd uses Nesterov momentum, which must be greater than 0"),
        ("whiten_bias_epochs: 0", "whiten_bias_epochs: 1", "whiten_bias_epochs must be 0 for network net"),
    ],
)
def test_read_params_with_incompatible_values_raises(
    params_file: Path, before: str, after: str, message: str
) -> None:
    replace_text(params_file, "optimizer: adam #", "optimizer: sgd #")
    read_params(params_file)
    replace_text(params_file, before, after)
    with pytest.raises(InputError) as caught:
        read_params(params_file)
    assert str(caught.value).startswith(f"params.yaml: train: {message}")


@pytest.mark.parametrize("content", ["a: [", "- 1\n", "", "text"])
def test_read_params_not_a_parameter_file_names_file(tmp_path: Path, content: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(content)
    with pytest.raises(InputError, match=r"params\.yaml"):
        read_params(file)


def test_read_params_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*params\.yaml"):
        read_params(tmp_path / "params.yaml")


def test_shipped_params_have_the_defaults_of_recipes() -> None:
    assert read_params(SHIPPED).train.model_dump().items() >= recipe_defaults().items()
