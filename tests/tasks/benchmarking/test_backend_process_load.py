from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest

from tasks.benchmarking.backend_process import (
    NUM_OFFLINE_BATCHES,
    LoadedBackend,
    poisson_arrivals,
    simulate_server,
)
from tasks.inference.onnx_classifier import Images, Predictor, Probabilities

IMAGES = np.zeros((3, 32, 32, 3), np.uint8)


class FakeBackend:
    """A clock that advances at each reading, and a predictor that takes a fixed time per batch."""

    def __init__(self, seconds_per_batch: float) -> None:
        self.now, self.seconds_per_batch = 0.0, seconds_per_batch
        self.batch_sizes: list[int] = []

    def clock(self) -> float:
        self.now += 3e-6
        return self.now

    def predict(self, images: Images) -> Probabilities:
        self.now += self.seconds_per_batch
        self.batch_sizes.append(len(images))
        return np.zeros((len(images), 10), np.float32)


def test_poisson_arrivals_have_exponential_gaps_and_poisson_counts() -> None:
    """The gaps' mean is 1/rate; counts in equal intervals have their mean as variance."""
    arrivals = poisson_arrivals(1000.0, 20.0, seed=0)
    gaps = np.diff(arrivals)
    assert (gaps > 0).all()
    assert gaps.mean() == pytest.approx(1e-3, rel=0.03)
    assert kstest(gaps, "expon", args=(0, 1e-3)).pvalue > 0.01
    counts = np.histogram(arrivals, bins=np.arange(0, 19, 0.1))[0]
    assert counts.var() == pytest.approx(counts.mean(), rel=0.3)
    assert len(poisson_arrivals(0.1, 0.01, seed=0)) == 1


def test_simulate_server_batches_waiting_requests() -> None:
    """By hand: the first is answered alone; three arrive meanwhile, of which two fit into a batch."""
    backend = FakeBackend(1.0)
    arrivals = np.array([0.5, 0.6, 1.0, 1.4])
    latencies = simulate_server(backend.predict, IMAGES, arrivals, 2, backend.clock)
    assert backend.batch_sizes == [1, 2, 1]
    assert latencies == pytest.approx([1.0, 1.9, 1.5, 2.1], abs=1e-4)


def test_simulate_server_faster_than_arrivals_queues_nothing() -> None:
    backend = FakeBackend(0.001)
    latencies = simulate_server(backend.predict, IMAGES, np.linspace(0.1, 0.8, 8), 8, backend.clock)
    assert backend.batch_sizes == [1] * 8
    assert latencies == pytest.approx([0.001] * 8, abs=1e-5)


class RecordedBackend:
    """A backend that keeps the threads and sizes with which it is asked."""

    def __init__(self, requests: int = 0) -> None:
        self.loads: list[tuple[int, list[int]]] = []
        self.calls: list[tuple[int, int]] = []
        self.images: list[Images] = []
        self.requests = requests

    def load(self, _: object, threads: int, sizes: Sequence[int]) -> Predictor:
        self.loads.append((threads, list(sizes)))

        def predict(images: Images) -> Probabilities:
            self.calls.append((threads, len(images)))
            self.images.append(images)
            return np.zeros((len(images), 10), np.float32)

        return predict

    def load_offline(self, _: object) -> Any:
        return self if self.requests else None

    def __call__(self, batches: Sequence[Images]) -> None:
        self.calls += [(0, len(batch)) for batch in batches]


def load_recorded(file: Path, requests: int = 0) -> tuple[RecordedBackend, LoadedBackend]:
    """Five images whose pixels are their number, 1 to 5."""
    file.write_bytes(np.repeat(np.arange(1, 6, dtype=np.uint8), 12).tobytes())
    recorded: Any = RecordedBackend(requests)
    models: Any = None
    return recorded, LoadedBackend(recorded, models, [1, 2], [8, 1], (file, 0, (5, 2, 2, 3)))


def test_loaded_backend_measures_memory_after_three_of_the_largest_batches(tmp_path: Path) -> None:
    recorded, loaded = load_recorded(tmp_path / "images")
    assert recorded.loads == [(2, [1, 8]), (1, [1, 8])], "the most threads first, whose memory it is"
    assert recorded.calls == [(2, 8)] * 3
    assert loaded.describe() == {"rss_mb": loaded.rss_mb, "offline_requests": 0}
    assert load_recorded(tmp_path / "images", 4)[1].describe()["offline_requests"] == 4


def test_loaded_backend_times_at_least_one_call_after_an_untimed_one(tmp_path: Path) -> None:
    recorded, loaded = load_recorded(tmp_path / "images")
    del recorded.calls[:], recorded.images[:]
    assert len(loaded.time_calls(1, 2, 0.0)) == 1
    assert recorded.calls == [(1, 2)] * 2
    assert len(loaded.time_calls(1, 2, 0.01)) > 1
    assert [images[:, 0, 0, 0].tolist() for images in recorded.images[3:7]] == [
        [1, 2],
        [3, 4],
        [5, 1],
        [2, 3],
    ]


def test_loaded_backend_times_all_images_of_its_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, loaded = load_recorded(tmp_path / "images", requests=4)
    del recorded.calls[:]
    times = iter([10.0, 12.0, 14.0])  # start, check after the first call, end
    monkeypatch.setattr("tasks.benchmarking.backend_process.time.perf_counter", lambda: next(times))
    assert loaded.time_offline(8, 0.0) == NUM_OFFLINE_BATCHES * 8 / 4
    assert recorded.calls == [(0, 8)] * NUM_OFFLINE_BATCHES


def test_loaded_backend_warms_its_server_up_with_batches_of_growing_size(tmp_path: Path) -> None:
    recorded, loaded = load_recorded(tmp_path / "images")
    del recorded.calls[:]
    loaded.warm_up_server(1, 8)
    assert recorded.calls == [(1, 1), (1, 2), (1, 4), (1, 8)]
