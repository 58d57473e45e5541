"""Measure drift detection on CIFAR-10's test images: false alarms, and images needed to notice a drift.

    python benchmarks/drift.py [--model artifacts/model.onnx] [--years 5] [--draws 200]

Batches are drawn from the test images. Neither was the model trained on them, nor are they in the reference,
the validation images. A drift counts as noticed at a batch size if 95% of the draws report it. Batches are
tested with labels, as images in `incoming/` have them, and without, as recorded predictions are.
"""

import argparse
import bisect
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tasks.drift.shift import BATCHES_PER_YEAR, Drift, detect_drift
from tasks.inference.onnx_classifier import load_model
from tasks.params import read_params
from tasks.workspace.splits import load_splits

POWER = 0.95
YEAR_SIZES = (30, 100, 1000)
SIZES = (25, 30, 40, 50, 60, 80, 100, 125, 150, 200, 250, 300, 400, 500, 600, 800, 1000, 1250, 1500, 2000)
SIZES += (2500, 3000, 4000, 5000)

Images = NDArray[np.uint8]


def darken(share: float) -> Callable[[Images], Images]:
    return lambda images: (images * share).astype(np.uint8)


def each(change: Callable[[Image.Image], Image.Image]) -> Callable[[Images], Images]:
    return lambda images: np.stack([np.asarray(change(Image.fromarray(image))) for image in images])


def compress(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=10)
    return Image.open(buffer).convert("RGB")


CHANGES: dict[str, Callable[[Images], Images]] = {
    "half as bright": darken(0.5),
    "a quarter as bright": darken(0.25),
    "blurred, Gaussian of 1 pixel": each(lambda image: image.filter(ImageFilter.GaussianBlur(1))),
    "JPEG at quality 10": each(compress),
}
MISSING = "two classes missing"


@dataclass
class Batches:
    """A source of batches: it draws them from a model's outputs on the test images."""

    outputs: NDArray[np.float32]
    labels: NDArray[np.int64]
    reference: NDArray[np.float32]
    reference_labels: NDArray[np.int64]
    confidence: float
    min_effect: float
    generator: np.random.Generator

    def test(self, size: int, *, labeled: bool, missing: int = 0) -> Drift:
        """Test a batch of `size` distinct images, without `missing` classes drawn at random."""
        absent = self.generator.permutation(self.outputs.shape[1])[:missing]
        chosen = self.generator.permutation(np.flatnonzero(~np.isin(self.labels, absent)))[:size]
        labels = (self.labels[chosen], self.reference_labels) if labeled else None
        return detect_drift(self.outputs[chosen], self.reference, self.confidence, labels, self.min_effect)

    def find_size(self, draws: int, *, labeled: bool, missing: int = 0) -> int | None:
        """Find the smallest of `SIZES` at which a drift is noticed; None where none is large enough."""

        def is_noticed(size: int) -> bool:
            noticed = sum(
                bool(self.test(size, labeled=labeled, missing=missing).shifts) for _ in range(draws)
            )
            return noticed >= POWER * draws

        # A larger batch notices at least as much, so a binary search finds the size.
        index = bisect.bisect_left(SIZES, 1, key=is_noticed)
        return SIZES[index] if index < len(SIZES) else None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    params = read_params(Path("params.yaml"))
    parser.add_argument("--model", type=Path, default=Path(params.paths.onnx_model))
    parser.add_argument("--years", type=int, default=5, help="years of 365 batches per batch size")
    parser.add_argument("--draws", type=int, default=200, help="batches per drift and batch size")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    model, data = load_model(args.model), load_splits(Path(params.paths.splits))
    images, labels = data.test.images.numpy(), data.test.labels.numpy()
    reference, reference_labels = model.predict_proba(data.val.images.numpy()), data.val.labels.numpy()

    drift = params.drift.confidence, params.drift.min_effect

    def draw_from(outputs: NDArray[np.float32]) -> Batches:
        generator = np.random.default_rng(args.seed)
        return Batches(outputs, labels, reference, reference_labels, *drift, generator)

    unchanged = draw_from(model.predict_proba(images))
    accuracy = (unchanged.outputs.argmax(1) == labels).mean()
    fewest = {labeled: unchanged.test(1, labeled=labeled).min_images for labeled in (True, False)}
    print(f"accuracy {accuracy:.1%}; at least {fewest[True]} images with labels, {fewest[False]} without\n")
    print("| images per batch | false alarms, labels known | false alarms, labels unknown | batches |")
    print("| ---: | ---: | ---: | ---: |")
    for size in YEAR_SIZES:
        batches = args.years * BATCHES_PER_YEAR
        alarms = [
            sum(bool(unchanged.test(size, labeled=labeled).shifts) for _ in range(batches))
            for labeled in (True, False)
        ]
        print(f"| {size:,} | {alarms[0]} | {alarms[1]} | {batches:,} |", flush=True)

    print("\n| drift | accuracy | images, labels known | images, labels unknown |")
    print("| --- | ---: | ---: | ---: |")
    cases = [(name, draw_from(model.predict_proba(change(images))), 0) for name, change in CHANGES.items()]
    for name, batches_of, missing in [*cases, (MISSING, unchanged, 2)]:
        sizes = [
            batches_of.find_size(args.draws, labeled=labeled, missing=missing) for labeled in (True, False)
        ]
        cells = [f"{size:,}" if size else f"more than {SIZES[-1]:,}" for size in sizes]
        print(
            f"| {name} | {(batches_of.outputs.argmax(1) == labels).mean():.1%} | {' | '.join(cells)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
