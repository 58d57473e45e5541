"""Compare an ONNX file with a reference in every configuration in which it may run."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tasks.inference.batches import Images, Probabilities, predict_in_batches
from tasks.inference.onnx_classifier import CPU, create_session, session_predictor
from tasks.workspace.errors import InputError, RunError


def predict_in_every_configuration(
    file: Path, images: Images, batch_sizes: Sequence[int], threads: Sequence[int], providers: Sequence[str]
) -> Iterator[tuple[str, Probabilities]]:
    """Yield a description of each combination of batch size, threads and provider, and its probabilities.

    Providers that are not available are skipped, except the CPU.
    """
    for provider in providers:
        for num_threads in threads:
            try:
                session = create_session(file, num_threads, provider)
            except InputError:
                if provider == CPU:
                    raise
                continue
            for batch_size in batch_sizes:
                probabilities = predict_in_batches(session_predictor(session), images, batch_size)
                yield f"batch size {batch_size}, threads {num_threads}, {provider}", probabilities


def check_parity(
    predictions: Iterable[tuple[str, Probabilities]],
    expected: Probabilities,
    failure: str,
    *,
    atol: float = math.inf,
    tie_margin: float = 0.0,
) -> float:
    """Return the largest difference between any probability and `expected`, over all configurations.

    `RunError`, whose message begins with `failure`, at the first configuration in which a probability differs
    by more than `atol` or is not finite, or an image gets another class. Another class is accepted only where
    the two highest expected probabilities are less than `tie_margin` apart.
    """
    second, first = np.sort(expected, axis=1)[:, -2:].T
    decisive = first - second >= tie_margin
    largest = 0.0
    for configuration, actual in predictions:
        differences = np.nan_to_num(np.abs(actual - expected), nan=np.inf).max(1)
        mismatches = (actual.argmax(1) != expected.argmax(1)) & decisive | ~np.isfinite(differences)
        difference = float(differences.max())
        if mismatches.any() or difference > atol:
            worst = int(np.where(mismatches, 2 + differences, differences).argmax())
            allowed = "" if math.isinf(atol) else f" (allowed: {atol:.0e})"
            raise RunError(
                f"{failure}: at {configuration}, {mismatches.sum()} of {len(expected)} classes differ, "
                f"probabilities by up to {difference:.1e}{allowed}; worst on test image {worst}"
            )
        largest = max(largest, difference)
    return largest
