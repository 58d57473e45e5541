from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.overrides import recipe_defaults
from tasks.params import Params, read_params
from tasks.workspace.errors import InputError
from tests.shipped_params import PARAMS_FILE


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    file = tmp_path / "params.yaml"
    file.write_text(PARAMS_FILE.read_text(encoding="utf-8"), encoding="utf-8")
    return file


def replace_text(file: Path, before: str, after: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after), encoding="utf-8")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("  lr: 0.001", "  lr: 0.001\n  epoch: 1", "train.epoch is not a parameter; did you mean epochs?"),
        ("  lr: 0.001", "  lr: 0.001\n  zzz: 1", "train.zzz is not a parameter; choose one of network"),
        ("  epochs: ", "  epochs: x", "train.epochs should be an integer from 1 to 100000, not 'x"),
        (
            "  lr: 0.001",
            "  lr: '0.001'",
            "train.lr should be a number greater than 0 and at most 1000, not '0.001'",
        ),
        ("  lr: 0.001", "  lr: 0", "train.lr should be a number greater than 0 and at most 1000, not 0"),
        (
            "  lr: 0.001",
            "  lr: .nan",
            "train.lr should be a number greater than 0 and at most 1000, not .nan",
        ),
        ("  lr: 0.001", "", "train.lr is missing; it should be a number greater than 0"),
        (
            "  val_fraction: 0.1",
            "  val_fraction: 1.5",
            "split.val_fraction should be a number greater than 0 and less than 1, not 1.5",
        ),
        ("  val_fraction: 0.1", "", "split.val_fraction is missing"),
        (
            "dataset: CIFAR-10",
            "dataset: MNIST",
            "dataset should be 'CIFAR-10', 'CIFAR-100', 'folder'",
        ),
        ("  opset: auto", "  opset: 0", "export.opset should be 'auto' or an integer from 13 to 28, not 0"),
        (
            "  license: MIT",
            "  license: 'MIT '",
            "project.license: a license is one line of at most 200 characters, without spaces around it",
        ),
        ("  license: MIT", '  license: "a\\nb"', "project.license: a license is one line"),
        ("  owner: ''", '  owner: " x"', "project.owner: an owner is one line of at most 200 characters"),
        ("  license: MIT #", "  license: #", "project.license should be text, not empty"),
        ("  flip: false", "  flip: on", "train.flip should be true, false or 'alternating', not 'on'"),
        ("  flip: false", "  flip: 1", "train.flip should be true, false or 'alternating', not 1"),
        ("  epochs: 24", "  epochs: ", "train.epochs should be an integer from 1 to 100000, not empty"),
        ("  epochs: 24", "  epochs: 1e400", "train.epochs should be an integer from 1 to 100000, not .inf"),
        (
            "  val_fraction: 0.1",
            "  val_fraction: [1]",
            "split.val_fraction should be a number greater than 0 and",
        ),
        ("[1, 32, 256]", "[1, x]", "benchmark.batch_sizes.1 should be an integer from 1 to 50000, not 'x'"),
        (
            "[1, 32, 256]",
            "[]",
            (
                "benchmark.batch_sizes should be a list of 1 to 32 items, "
                "each item an integer from 1 to 50000, not []"
            ),
        ),
        (
            "calibration_bins: 15",
            "calibration_bins: 1000000000000",
            "evaluate.calibration_bins should be an integer",
        ),
        ("dataset: CIFAR-10", "dataset: CIFAR-10\n3: 4", "3 is not a parameter; choose one of"),
        (
            "dataset: CIFAR-10",
            "dataset: CIFAR-10\ntrian: {}",
            "trian is not a parameter; did you mean train?",
        ),
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


@pytest.mark.parametrize(
    ("changes", "opset", "allowed"),
    [
        ({}, 13, ""),
        ({}, 28, ""),
        ({"network: net": "network: resnet18"}, 18, ""),
        ({"network: net": "network: resnet18"}, 13, "18 to 25"),
        ({"network: net": "network: airbench94"}, 26, "18 to 25"),
        ({"tta: none": "tta: flip"}, 17, "18 to 25"),
        ({"image_size: 32": "image_size: 64"}, 13, ""),  # It is the size of a folder's images alone.
        ({"image_size: 32": "image_size: 64", "dataset: CIFAR-10": "dataset: folder"}, 13, "18 to 25"),
    ],
)
def test_read_params_rejects_an_opset_that_the_network_does_not_support(
    params_file: Path, changes: dict[str, str], opset: int, allowed: str
) -> None:
    for before, after in changes.items():
        replace_text(params_file, before, after)
    read_params(params_file)
    replace_text(params_file, "opset: auto", f"opset: {opset}")
    if not allowed:
        assert read_params(params_file).export.opset == opset
        return
    with pytest.raises(InputError) as caught:
        read_params(params_file)
    assert str(caught.value).startswith(f"params.yaml: export: opset {opset} is not supported for network ")
    assert str(caught.value).endswith(f"; auto and {allowed} are")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "params.yaml, line 2: not YAML, did not find expected node content"),
        (b"a: 1\n\tb: 2", "params.yaml, line 2: not YAML, "),
        (b"a: 1\nb: 2\na: 3\n", "params.yaml, line 3: the key a is given twice"),
        (b"train:\n  lr: 1\n  lr: 2\n", "params.yaml, line 3: the key lr is given twice"),
        (b"- 1\n", "params.yaml should hold sections of keys, such as `train:`, not [1]"),
        (b"text", "params.yaml should hold sections of keys, such as `train:`, not 'text'"),
        (b"", "params.yaml is empty; restore it"),
        (b"# a comment\n", "params.yaml is empty; restore it"),
        (b"a: \xff", "params.yaml: it is not UTF-8 text (byte 4)"),
        (b"a: " + b"1" * 5000, "params.yaml is not YAML: Exceeds the limit"),
        (b"[" * 5000, "params.yaml"),
    ],
)
def test_read_params_not_a_parameter_file_says_why_in_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_params(file)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def _find_numbers(node: object) -> Iterator[dict[str, object]]:
    if isinstance(node, dict):
        if node.get("type") in {"integer", "number"}:
            yield node
        for value in node.values():
            yield from _find_numbers(value)
    elif isinstance(node, list):
        for value in node:
            yield from _find_numbers(value)


def test_every_number_has_an_upper_bound() -> None:
    numbers = list(_find_numbers(Params.model_json_schema()))
    assert len(numbers) > 30
    assert not [number for number in numbers if not {"maximum", "exclusiveMaximum", "enum"} & number.keys()]


def test_read_params_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*params\.yaml"):
        read_params(tmp_path / "params.yaml")


def test_shipped_params_have_the_defaults_of_recipes() -> None:
    assert dict(read_params(PARAMS_FILE).train).items() >= recipe_defaults().items()
