"""Generate the load of MLPerf's scenario Server: Poisson arrivals, served with dynamic batching.

Reddi et al., "MLPerf Inference Benchmark", 2020, https://arxiv.org/abs/1911.02549.
"""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tasks.inference.batches import Images, Predictor


def poisson_arrivals(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Draw arrival times in seconds: a Poisson process of `rate` per second, with at least one arrival."""
    count = max(1, round(rate * seconds))
    return np.random.default_rng(seed).exponential(1 / rate, count).cumsum()


def simulate_server(
    predict: Predictor,
    images: Images,
    arrivals: NDArray[np.float64],
    max_batch_size: int,
    clock: Callable[[], float] = time.perf_counter,
) -> NDArray[np.float64]:
    """Serve one image per arrival; return each latency in seconds, from the arrival to the prediction.

    One server takes the requests in the order of their arrival, and all that wait as one batch.
    """
    latencies = np.empty(len(arrivals))
    wrapped_images = np.concatenate([images, images[:max_batch_size]])
    start, answered = clock(), 0
    while answered < len(arrivals):
        now = clock() - start
        waiting = int(np.searchsorted(arrivals, now, side="right")) - answered
        if waiting <= 0:
            continue  # A server with a bound of milliseconds busy-waits as well.
        size = min(waiting, max_batch_size)
        first = answered % len(images)
        predict(wrapped_images[first : first + size])
        latencies[answered : answered + size] = clock() - start - arrivals[answered : answered + size]
        answered += size
    return latencies
