"""Say by how much a file differs from the one that was recorded: weights, splits, and exported models."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.inference.onnx_classifier import OnnxClassifier
from tasks.workspace.errors import RunError
from tasks.workspace.splits import Splits, load_tensors


def describe_difference(recorded: Path, made: Path) -> str:
    """Say by how much the file differs from the recorded one; other files than tensors only by their size."""
    if made.suffix != ".safetensors":
        return f"it has {made.stat().st_size:,} bytes, and had {recorded.stat().st_size:,}"
    (before, before_metadata), (now, now_metadata) = load_tensors(recorded), load_tensors(made)
    before_metadata, now_metadata = _flatten(before_metadata), _flatten(now_metadata)
    keys = sorted({*before_metadata, *now_metadata})
    parts = [
        f"its {key} is {now_metadata.get(key)!r:.60}, and was {before_metadata.get(key)!r:.60}"
        for key in keys
        if now_metadata.get(key) != before_metadata.get(key)
    ]
    largest, num_different = 0.0, 0
    for name in sorted({*before, *now}):
        if name not in before or name not in now or before[name].shape != now[name].shape:
            parts.append(f"{name} has another shape")
        elif not before[name].equal(now[name]):
            num_different += 1
            largest = max(largest, (before[name].double() - now[name].double()).abs().max().item())
    if num_different:
        parts.insert(0, f"{num_different} of its {len(now)} tensors differ, by up to {largest:.3g}")
    return "; ".join(parts) or "its tensors and its metadata are the same"


def _flatten(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Give the keys of a section the section's name, as in `train.seed`."""
    flat: dict[str, Any] = {}
    for key, value in metadata.items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


@dataclass(frozen=True)
class PredictionDifference:
    """How far two models' predictions differ."""

    num_images: int
    num_classes_differ: int
    """the number of images to which they give another class, where rounding does not decide it"""
    max_abs_diff: float
    """the largest difference of a probability"""

    def is_within(self, atol: float) -> bool:
        return self.num_classes_differ == 0 and self.max_abs_diff <= atol

    def __str__(self) -> str:
        return (
            f"{self.num_classes_differ:,} of {self.num_images:,} validation and test images get another "
            f"class, and probabilities differ by up to {self.max_abs_diff:.1e}"
        )


def compare_predictions(
    recorded: OnnxClassifier, made: OnnxClassifier, data: Splits, atol: float
) -> PredictionDifference:
    """Compare both models on validation and test images.

    Another class counts unless the two highest probabilities are within `atol` of each other on both sides,
    where rounding decides. `RunError` where the models have other classes.
    """
    if recorded.classes != made.classes:
        raise RunError(f"the model has other classes: {', '.join(made.classes)}")
    images = np.concatenate([data.val.images.numpy(), data.test.images.numpy()])
    before, now = recorded.predict_proba(images), made.predict_proba(images)
    second, first = np.sort(before, axis=1)[:, -2:].T
    differs = (before.argmax(1) != now.argmax(1)) & (first - second >= 2 * atol)
    # A NaN counts as the largest difference that two probabilities can have.
    difference = np.nan_to_num(np.abs(before - now), nan=1.0)
    return PredictionDifference(len(images), int(differs.sum()), float(difference.max(initial=0.0)))
