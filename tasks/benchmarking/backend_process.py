"""Run a backend in a process of its own, so that measured engines share neither threads nor memory.

The process loads one backend and nothing else, and is called through its standard input and output. It also
generates the load of MLPerf's scenario Server (Reddi et al. 2020, https://arxiv.org/abs/1911.02549).
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from tasks.inference.onnx_classifier import predict_in_batches, select_cyclic_batch
from tasks.processes import describe_exit, exit_with_parent, kill_with_parent, python_path
from tasks.workspace.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Self

    from numpy.typing import NDArray

    from tasks.benchmarking.backends import Backend, ModelPaths
    from tasks.inference.onnx_classifier import Images, Predictor, Probabilities


COMMAND = "from tasks.benchmarking.backend_process import answer_calls; answer_calls()"
NUM_BATCHES = 8
NUM_OFFLINE_BATCHES = 64
EXIT_TIMEOUT_S = 10.0
# Processes are suspended between calls on Linux only: elsewhere one would stay suspended for ever if its
# parent were killed.
SUSPENDS = sys.platform == "linux"


class LoadedBackend:
    """The backend within its process.

    `images` says where the images are, as `(file, position in bytes, shape)`; they are mapped into memory.
    """

    def __init__(
        self,
        backend: Backend,
        models: ModelPaths,
        threads: Sequence[int],
        batch_sizes: Sequence[int],
        images: tuple[Path, int, tuple[int, ...]],
    ) -> None:
        file, offset, shape = images
        sizes = sorted(batch_sizes)
        most = max(threads)
        self._predictors: dict[int, Predictor] = {most: backend.load(models, most, sizes)}
        self._run_all = backend.load_offline(models)
        for _ in range(3):
            self._predictors[most](np.zeros((sizes[-1], *shape[1:]), np.uint8))
        self.rss_mb = psutil.Process().memory_info().rss / 1e6
        for count in threads:
            if count != most:
                self._predictors[count] = backend.load(models, count, sizes)
        self._images: Images = np.memmap(file, np.uint8, "r", offset, shape)

    def describe(self) -> dict[str, Any]:
        """Return the memory of the process, and the number of requests that the engine runs at once.

        The number is 0 for engines that have no mode for MLPerf's scenario Offline.
        """
        return {"rss_mb": self.rss_mb, "offline_requests": self._run_all.requests if self._run_all else 0}

    def predict(self, threads: int, batch_size: int) -> Probabilities:
        """Predict all images in batches and return probabilities `(N, classes)`."""
        return predict_in_batches(self._predictors[threads], self._images, batch_size)

    def time_calls(self, threads: int, batch_size: int, seconds: float) -> list[float]:
        """Time calls on batches of different images, at least one call; return seconds per call."""
        predict = self._predictors[threads]
        batches = self._batches(batch_size, NUM_BATCHES)
        predict(batches[0])  # An untimed call wakes the engine's threads.
        latencies: list[float] = []
        end = time.perf_counter() + seconds
        while not latencies or time.perf_counter() < end:
            batch = batches[len(latencies) % NUM_BATCHES]
            start = time.perf_counter()
            predict(batch)
            latencies.append(time.perf_counter() - start)
        return latencies

    def time_offline(self, batch_size: int, seconds: float) -> float:
        """Return images per second while the engine runs as many batches at once as it chooses."""
        assert self._run_all is not None
        batches = self._batches(batch_size, NUM_OFFLINE_BATCHES)
        calls, start = 0, time.perf_counter()
        while not calls or time.perf_counter() < start + seconds:
            self._run_all(batches)
            calls += 1
        return calls * NUM_OFFLINE_BATCHES * batch_size / (time.perf_counter() - start)

    def warm_up_server(self, threads: int, max_batch_size: int) -> None:
        """Predict batches of growing size: some engines compile or allocate at the first batch of a size."""
        size = 1
        while size <= max_batch_size:
            self._predictors[threads](select_cyclic_batch(self._images, 0, size))
            size *= 2

    def serve(self, threads: int, max_batch_size: int, rate: float, seconds: float, seed: int) -> float:
        """Serve requests that arrive at `rate` per second; return the 99th percentile of latencies in ms."""
        arrivals = poisson_arrivals(rate, seconds, seed)
        predict = self._predictors[threads]
        predict(self._images[:1])
        latencies = simulate_server(predict, self._images, arrivals, max_batch_size)
        return float(np.percentile(latencies, 99) * 1000)

    def _batches(self, batch_size: int, count: int) -> list[NDArray[np.uint8]]:
        return [select_cyclic_batch(self._images, i * batch_size, batch_size) for i in range(count)]


class BackendProcess:
    """A `LoadedBackend` in a process that ends with the `with` block, or with this process.

    The process loads while this one goes on, so several load side by side. Where `SUSPENDS` is true, it is
    suspended between calls: its threads would spin while they wait for work, and slow other backends.
    """

    def __init__(self, backend: Backend, *arguments: Any) -> None:
        self.backend = backend
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - __exit__ closes it.
        self._process = subprocess.Popen(  # noqa: S603 - no argument from outside
            [sys.executable, "-P", "-c", COMMAND],
            env=os.environ | {"PYTHONPATH": python_path()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C goes to this process alone, which then ends the other.
        )
        self._send((os.getpid(), backend, *arguments))

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            stream.close()

    def wait_until_loaded(self) -> dict[str, Any]:
        """Wait, and return `LoadedBackend.describe`; `BackendUnavailableError` where it is not installed."""
        description: dict[str, Any] = self._receive()
        self._signal("SIGSTOP")
        return description

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the `LoadedBackend`; raise what it raises, `RunError` where the process ended."""
        self._signal("SIGCONT")
        self._send((method, arguments))
        result = self._receive()
        self._signal("SIGSTOP")
        return result

    def _signal(self, name: str) -> None:
        if SUSPENDS:
            self._process.send_signal(getattr(signal, name))

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        try:
            result, error = pickle.load(self._process.stdout)  # noqa: S301 - from this module
        except (EOFError, pickle.UnpicklingError):
            raise self._failure() from None
        if error is not None:
            raise error
        return result

    def _failure(self) -> RunError:
        try:
            code = self._process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return RunError(f"{self.backend.name} {describe_exit(code, self._errors)} (in a process of its own)")


def answer_calls() -> None:
    """Load a backend, then execute one call after the other until standard input ends: the whole process."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Engines may print, but only results go to the pipe.
    parent, *arguments = pickle.load(sys.stdin.buffer)  # noqa: S301 - from BackendProcess
    kill_with_parent(parent)
    exit_with_parent(parent)
    loaded: LoadedBackend | None = None
    while True:
        answer: tuple[Any, RunError | None]
        try:
            if loaded is None:
                loaded = LoadedBackend(*arguments)
                answer = loaded.describe(), None
            else:
                method, values = pickle.load(sys.stdin.buffer)  # noqa: S301
                answer = getattr(loaded, method)(*values), None
        except EOFError:
            return
        except RunError as error:
            answer = None, error
        pickle.dump(answer, answers)
        answers.flush()


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
