from pathlib import Path

import numpy as np
import pytest

from tasks.inference.onnx_classifier import CPU, Probabilities, load_model
from tasks.onnx.graph import check_parity, predict_in_every_configuration
from tasks.params import Params
from tasks.workspace.errors import InputError, RunError

EXPECTED = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.401, 0.399, 0.2]], np.float32)


def test_predict_in_every_configuration_names_each_and_agrees(small_run: Params) -> None:
    file = Path(small_run.paths.onnx_model)
    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    expected = load_model(file).predict_proba(images)
    providers = ["TensorrtExecutionProvider", CPU]
    predictions = dict(predict_in_every_configuration(file, images, [1, 3, 64], [1, 2], providers))
    assert list(predictions) == [
        f"batch size {size}, threads {threads}, {CPU}" for threads in (1, 2) for size in (1, 3, 64)
    ]
    for probabilities in predictions.values():
        assert np.abs(probabilities - expected).max() < 1e-6


def test_predict_in_every_configuration_does_not_skip_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(b"cut")
    images = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(InputError, match=r"cut\.onnx cannot be loaded by ONNX Runtime"):
        list(predict_in_every_configuration(tmp_path / "cut.onnx", images, [1], [1], [CPU]))


def check(second: Probabilities, *, atol: float = 0.01, tie_margin: float = 0.0) -> float:
    predictions = [("first", EXPECTED.copy()), ("second", second)]
    return check_parity(predictions, EXPECTED, "They differ", atol=atol, tie_margin=tie_margin)


def change(row: int, *values: float) -> Probabilities:
    changed = EXPECTED.copy()
    changed[row] = values
    return changed


def test_check_parity_returns_largest_difference_of_all_configurations() -> None:
    assert check(EXPECTED) == 0
    assert check(change(1, 0.1, 0.605, 0.295)) == pytest.approx(0.005, abs=1e-6)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (change(1, 0.1, 0.55, 0.35), "0 of 3 classes differ, probabilities by up to 5.0e-02"),
        (change(2, 0.399, 0.401, 0.2), "1 of 3 classes differ, probabilities by up to 2.0e-03"),
        (change(0, np.nan, 0.2, 0.1), "1 of 3 classes differ, probabilities by up to inf"),
    ],
)
def test_check_parity_names_configuration_and_worst_image(second: Probabilities, message: str) -> None:
    (worst,) = np.flatnonzero((second != EXPECTED).any(1))
    with pytest.raises(RunError) as caught:
        check(second)
    assert str(caught.value) == (
        f"They differ: at second, {message} (allowed: 1e-02); worst on test image {worst}"
    )


def test_check_parity_ignores_classes_of_ties_only() -> None:
    swapped = change(2, 0.399, 0.401, 0.2)
    assert check(swapped, tie_margin=0.02) == pytest.approx(0.002, abs=1e-6)
    swapped[1] = 0.1, 0.3, 0.6
    with pytest.raises(RunError, match=r"1 of 3 classes differ, .* worst on test image 1$"):
        check(swapped, atol=np.inf, tie_margin=0.02)
    swapped[1] = EXPECTED[1]
    swapped[2, 0] = np.nan
    with pytest.raises(RunError, match=r"1 of 3 classes differ, .* worst on test image 2$"):
        check(swapped, atol=np.inf, tie_margin=0.02)
