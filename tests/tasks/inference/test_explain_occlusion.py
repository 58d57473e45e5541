from pathlib import Path

import numpy as np
import pytest

from tasks.inference.explain import explain, occlude
from tasks.inference.onnx_classifier import load_model
from tasks.params import Params


def classify_by_corner(images: np.ndarray) -> np.ndarray:
    """Three classes: the brighter the upper left quarter, the more probable is class 1; class 2 never is."""
    size = images.shape[1]
    logit = images[:, : size // 4, : size // 4].mean((1, 2, 3)) / 10
    odds = np.stack([np.ones_like(logit), np.exp(logit), np.zeros_like(logit)], axis=1)
    return (odds / odds.sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("size", [8, 30, 64])
def test_occlude_finds_the_pixels_that_decide(size: int) -> None:
    image = np.full((size, size, 3), 200, np.uint8)
    occlusion = occlude(classify_by_corner, image, 1, fill=(0, 0, 0))
    assert occlusion.evidence.shape == (size, size)
    assert occlusion.window[:2] == (0, 0)
    assert occlusion.probabilities[1] < classify_by_corner(image[None])[0, 1]
    corner = occlusion.evidence[: size // 4, : size // 4]
    assert corner.min() > 0
    assert corner.max() == occlusion.evidence.max()
    assert occlusion.evidence[size * 3 // 4 :, size * 3 // 4 :].max() == 0


def test_occlude_shows_what_speaks_against_a_class() -> None:
    image = np.full((32, 32, 3), 200, np.uint8)
    for_, against = (occlude(classify_by_corner, image, target, fill=0).evidence for target in (1, 0))
    assert against.min() < 0
    np.testing.assert_allclose(against, -for_, atol=1e-5)  # of two classes: what speaks for one or the other


def test_occlude_where_the_model_is_certain_still_differs() -> None:
    def certain(images: np.ndarray) -> np.ndarray:
        other = np.exp(-images.mean((1, 2, 3)) / 4).astype(np.float32)
        return np.stack([np.ones_like(other), other], axis=1)  # in float32, 1 - 1e-20 is 1

    occlusion = occlude(certain, np.full((32, 32, 3), 200, np.uint8), 0, fill=0)
    np.testing.assert_allclose(occlusion.evidence[16, 16], 200 / 4 * (8 / 32) ** 2, rtol=1e-3)


def test_explain_equals_covering_by_hand(small_run: Params) -> None:
    model = load_model(Path(small_run.paths.onnx_model))
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    falls = []
    before = model.predict_proba(image[None])[0].astype(np.float64)
    for top in range(-6, 32, 2):
        for left in range(-6, 32, 2):
            covered = image.copy()
            covered[max(top, 0) : top + 8, max(left, 0) : left + 8] = model.mean_color
            after = model.predict_proba(covered[None])[0].astype(np.float64)
            covers_pixel = top <= 20 < top + 8 and left <= 11 < left + 8
            if covers_pixel:
                falls.append(np.log(before[3] / (1 - before[3])) - np.log(after[3] / (1 - after[3])))
    assert len(falls) == 16
    np.testing.assert_allclose(explain(model, image, 3).evidence[20, 11], np.mean(falls), rtol=1e-3)
