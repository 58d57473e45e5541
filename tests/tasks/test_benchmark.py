import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import kstest

from tasks.benchmark import benchmark, poisson_arrivals, simulate_server
from tasks.params import BenchmarkConfig, Params, read_params
from tasks.workspace.errors import InputError, RunError
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def measured(small_run: Params) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(Path(small_run.paths.benchmarks).read_text(encoding="utf-8"))
    return read


def benchmarked(small_run: Params, folder: Path, model: Path | None = None, **changes: object) -> Path:
    """The stage `benchmark` with another folder to write to, another model, other config."""
    config = BenchmarkConfig.model_validate(small_run.benchmark.model_dump() | changes)
    paths = small_run.paths
    onnx_model = model or Path(paths.onnx_model)
    int8_model = Path(paths.int8_model)
    benchmark(Path(paths.splits), Path(paths.weights), onnx_model, int8_model, folder / "b.json", config)
    return folder / "b.json"


def test_every_engine_at_every_batch_size_and_number_of_threads(
    small_run: Params, measured: dict[str, Any]
) -> None:
    config, rows = small_run.benchmark, measured["results"]
    found = {f"{row['backend']}-{row['precision']}" for row in rows}
    assert found | measured["skipped"].keys() >= set(config.backends)
    assert {"onnxruntime-fp32", "onnxruntime-int8", "pytorch-fp32", "torchscript-fp32"} <= found
    for name in found:
        own = [(r["threads"], r["batch_size"]) for r in rows if name == f"{r['backend']}-{r['precision']}"]
        assert own == [(threads, size) for threads in config.threads for size in config.batch_sizes]


def test_rows_hold_together(measured: dict[str, Any]) -> None:
    for row in measured["results"]:
        latency = row["latency_ms"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]
        low, high = row["images_per_second_range"]
        assert low <= row["images_per_second"] <= high
        assert low <= row["batch_size"] / latency["p50"] * 1000 <= high
        assert row["num_calls"] >= 5
        assert 0 <= row["accuracy"] <= 1


def test_what_is_not_installed_is_named_as_skipped(measured: dict[str, Any]) -> None:
    assert "CUDAExecutionProvider is not part of" in measured["skipped"]["onnxruntime-fp32-cuda"]
    assert not measured["skipped"].keys() & measured["scenarios"].keys()


def test_scenarios_take_what_suits_the_engine_best(small_run: Params, measured: dict[str, Any]) -> None:
    for name, scenario in measured["scenarios"].items():
        rows = [row for row in measured["results"] if name == f"{row['backend']}-{row['precision']}"]
        single = [row["latency_ms"]["p90"] for row in rows if row["batch_size"] == 1]
        assert scenario["single_stream"]["p90_ms"] == min(single)
        assert scenario["offline"]["images_per_second"] == max(row["images_per_second"] for row in rows)
        server = scenario["server"]
        assert 0 <= server["images_per_second"] < server["failed_images_per_second"]
        assert server["failed_images_per_second"] <= scenario["offline"]["images_per_second"]
        assert server["p99_ms"] <= server["latency_bound_ms"] == small_run.benchmark.server_target_latency_ms
        assert scenario["rss_mb"] > 20
    kb = {name: measured["scenarios"][name]["model_kb"] for name in ("onnxruntime-fp32", "onnxruntime-int8")}
    assert kb["onnxruntime-fp32"] == Path(small_run.paths.onnx_model).stat().st_size / 1000
    assert kb["onnxruntime-int8"] == Path(small_run.paths.int8_model).stat().st_size / 1000


def test_arrivals_are_a_poisson_process() -> None:
    """Its gaps are exponential with the mean 1/rate; numbers in equal spans vary as much as their mean."""
    arrivals = poisson_arrivals(1000.0, 20.0, seed=0)
    gaps = np.diff(arrivals)
    assert (gaps > 0).all()
    assert gaps.mean() == pytest.approx(1e-3, rel=0.03)
    assert kstest(gaps, "expon", args=(0, 1e-3)).pvalue > 0.01
    counts = np.histogram(arrivals, bins=np.arange(0, 19, 0.1))[0]
    assert counts.var() == pytest.approx(counts.mean(), rel=0.3)
    assert len(poisson_arrivals(0.1, 0.01, seed=0)) == 1


class Machine:
    """A clock that goes on with each look at it, and an engine that needs so long for a batch."""

    def __init__(self, seconds_a_batch: float) -> None:
        self.now, self.seconds, self.batches = 0.0, seconds_a_batch, [0][:0]

    def clock(self) -> float:
        self.now += 1e-6
        return self.now

    def run(self, images: np.ndarray) -> np.ndarray:
        self.now += self.seconds
        self.batches.append(len(images))
        return np.zeros((len(images), 10), np.float32)


def test_who_waits_goes_into_the_next_batch_together() -> None:
    """By hand: the first is served alone; three come meanwhile, of which two fit into a batch."""
    machine = Machine(1.0)
    images = np.zeros((3, 32, 32, 3), np.uint8)
    latencies = simulate_server(machine.run, images, np.array([0.5, 0.6, 1.0, 1.4]), 2, machine.clock)
    assert machine.batches == [1, 2, 1]
    assert latencies == pytest.approx([1.0, 1.9, 1.5, 2.1], abs=1e-4)


def test_a_server_that_is_faster_than_the_arrivals_makes_nobody_wait() -> None:
    machine = Machine(0.001)
    images = np.zeros((3, 32, 32, 3), np.uint8)
    latencies = simulate_server(machine.run, images, np.arange(1, 9) * 0.1, 8, machine.clock)
    assert machine.batches == [1] * 8
    assert latencies == pytest.approx([0.001] * 8, abs=1e-5)


def test_accuracy_is_that_of_evaluate(small_run: Params, measured: dict[str, Any]) -> None:
    metrics = json.loads(Path(small_run.paths.metrics).read_text(encoding="utf-8"))
    for row in measured["results"]:
        if row["precision"] == "fp32":
            assert row["accuracy"] == pytest.approx(metrics["test"]["accuracy"])


def test_parity_and_environment(measured: dict[str, Any]) -> None:
    assert measured["dataset"] == "sample"
    assert measured["parity"]["max_abs_diff"] < 1e-5
    assert measured["parity"]["argmax_agreement"] == 1.0
    environment = measured["environment"]
    assert {"cpu", "flags", "cores", "threads", "versions"} <= environment.keys()
    assert 0 <= environment["background_cpu_percent"] <= 100
    assert {"python", "onnxruntime", "torch"} <= measured["environment"]["versions"].keys()


def test_parity_is_of_the_file_whichever_engines_are_measured(small_run: Params, tmp_path: Path) -> None:
    """A model of other weights than PyTorch's has to show, also where only PyTorch is measured."""
    model = onnx.load(small_run.paths.onnx_model)
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "fc3.bias")
    shifted = numpy_helper.to_array(bias) + 5 * np.eye(10, dtype=np.float32)[3]
    bias.CopyFrom(numpy_helper.from_array(shifted, bias.name))
    onnx.save(model, tmp_path / "other.onnx")
    file = benchmarked(small_run, tmp_path, tmp_path / "other.onnx", backends=["pytorch-fp32"])
    parity = json.loads(file.read_text(encoding="utf-8"))["parity"]
    assert parity["max_abs_diff"] > 0.1
    assert parity["argmax_agreement"] < 1


@pytest.mark.parametrize("share", [0, 50, 99])
def test_a_truncated_file(small_run: Params, tmp_path: Path, share: int) -> None:
    content = Path(small_run.paths.onnx_model).read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) * share // 100])
    with pytest.raises(RunError, match=r"cut\.onnx") as caught:
        benchmarked(small_run, tmp_path, tmp_path / "cut.onnx")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "b.json").exists()


def test_a_foreign_file(small_run: Params, tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(RunError, match=r"other\.onnx is ") as caught:
        benchmarked(small_run, tmp_path, tmp_path / "other.onnx")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "batch_sizes: ",
            "batch_sizes: [0] #",
            "benchmark.batch_sizes.0 should be greater",
        ),
        (
            "batch_sizes: ",
            "batch_sizes: [1, -8] #",
            "benchmark.batch_sizes.1 should be greater",
        ),
        ("batch_sizes: ", "batch_sizes: [] #", "benchmark.batch_sizes"),
        ("threads: ", "threads: [0] #", "benchmark.threads.0 should be greater"),
        ("threads: ", "threads: [1, -2] #", "benchmark.threads.1 should be greater"),
        ("threads: ", "threads: 2 #", "benchmark.threads should be a list"),
        ("rounds: ", "rounds: 4 #", "benchmark.rounds should be greater than or equal to 5"),
        ("  providers: ", "  providers: [ROCm] #", "benchmark.providers.0 should be 'CPUExecutionProvider'"),
        ("    - onnxruntime-int8", "    - onnxruntime-int4", "benchmark.backends.1 should be"),
        (
            "server_target_latency_ms: ",
            "server_target_latency_ms: 0.0 #",
            "benchmark.server_target_latency_ms should be greater",
        ),
    ],
)
def test_parameters_out_of_range(tmp_path: Path, before: str, after: str, message: str) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    section, rest = text.split("\nbenchmark:", 1)
    assert before in rest
    (tmp_path / "params.yaml").write_text(
        section + "\nbenchmark:" + rest.replace(before, after, 1), encoding="utf-8"
    )
    with pytest.raises(InputError) as caught:
        read_params(tmp_path / "params.yaml")
    assert str(caught.value).startswith(f"params.yaml: {message}")
    assert len(str(caught.value).splitlines()) == 1
