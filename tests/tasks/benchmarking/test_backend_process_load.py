import numpy as np
import pytest
from scipy.stats import kstest

from tasks.benchmarking.backend_process import poisson_arrivals, simulate_server
from tasks.inference.onnx_classifier import Images, Probabilities

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
