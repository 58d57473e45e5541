import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.benchmark import _describe_server, benchmark
from tasks.params import BenchmarkConfig, Params, read_params
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import read_json
from tests.shipped_params import PARAMS_FILE


@pytest.fixture(scope="module")
def result(small_run: Params) -> dict[str, Any]:
    loaded: dict[str, Any] = read_json(Path(small_run.paths.benchmarks))
    return loaded


def run_benchmark(small_run: Params, folder: Path, model: Path | None = None, **changes: object) -> Path:
    """The stage `benchmark` with another output folder, another model, other config; its file."""
    config = BenchmarkConfig.model_validate(small_run.benchmark.model_dump() | changes)
    paths = small_run.paths
    onnx_model = model or Path(paths.onnx_model)
    int8_model = Path(paths.int8_model)
    benchmark(Path(paths.splits), Path(paths.weights), onnx_model, int8_model, folder / "b.json", config)
    return folder / "b.json"


def test_benchmark_measures_every_backend_batch_size_and_thread_count(
    small_run: Params, result: dict[str, Any]
) -> None:
    config, rows = small_run.benchmark, result["results"]
    names = {f"{row['backend']}-{row['precision']}" for row in rows}
    assert names == set(config.backends)
    assert names == {"onnxruntime-fp32", "onnxruntime-int8", "pytorch-fp32"}
    for name in names:
        own = [(r["threads"], r["batch_size"]) for r in rows if name == f"{r['backend']}-{r['precision']}"]
        assert own == [(threads, size) for threads in config.threads for size in config.batch_sizes]


def test_benchmark_rows_are_consistent(result: dict[str, Any]) -> None:
    for row in result["results"]:
        latency = row["latency_ms"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]
        low, high = row["images_per_second_interval"]
        assert low <= row["images_per_second"] <= high
        assert row["num_calls"] >= 5
        assert 0 <= row["accuracy"] <= 1


def test_benchmark_names_skipped_backends(result: dict[str, Any]) -> None:
    assert "CUDAExecutionProvider is not part of" in result["skipped"]["onnxruntime-fp32-cuda"]
    assert result["skipped"]["openvino-int8"] == "not in benchmark.backends"
    assert not result["skipped"].keys() & result["scenarios"].keys()


def test_benchmark_scenarios_use_best_configuration(small_run: Params, result: dict[str, Any]) -> None:
    for name, scenario in result["scenarios"].items():
        rows = [row for row in result["results"] if name == f"{row['backend']}-{row['precision']}"]
        single = [row["latency_ms"]["p90"] for row in rows if row["batch_size"] == 1]
        assert scenario["single_stream"]["p90_ms"] == min(single)
        assert scenario["offline"]["images_per_second"] == max(row["images_per_second"] for row in rows)
        server = scenario["server"]
        assert 0 <= server["images_per_second"] < server["failed_images_per_second"]
        assert server["failed_images_per_second"] <= scenario["offline"]["images_per_second"]
        assert server["p99_ms"] <= server["latency_bound_ms"] == small_run.benchmark.server_target_latency_ms
        assert scenario["rss_mb"] > 20
    kb = {name: result["scenarios"][name]["model_kb"] for name in ("onnxruntime-fp32", "onnxruntime-int8")}
    assert kb["onnxruntime-fp32"] == Path(small_run.paths.onnx_model).stat().st_size / 1000
    assert kb["onnxruntime-int8"] == Path(small_run.paths.int8_model).stat().st_size / 1000


def test_benchmark_accuracy_equals_evaluate(small_run: Params, result: dict[str, Any]) -> None:
    metrics = json.loads(Path(small_run.paths.metrics).read_text(encoding="utf-8"))
    for row in result["results"]:
        if row["precision"] == "fp32":
            assert row["accuracy"] == pytest.approx(metrics["test"]["accuracy"])


def test_benchmark_reports_parity_and_environment(result: dict[str, Any]) -> None:
    assert result["dataset"] == "sample"
    assert result["parity"]["max_abs_diff"] < 1e-5
    assert result["parity"]["argmax_agreement"] == 1.0
    environment = result["environment"]
    assert {"cpu", "flags", "cores", "threads", "versions"} <= environment.keys()
    assert 0 <= environment["background_cpu_percent"] <= 100
    assert {"python", "onnxruntime", "torch"} <= result["environment"]["versions"].keys()


def test_benchmark_parity_is_of_the_file_even_if_not_measured(small_run: Params, tmp_path: Path) -> None:
    """A model of other weights than PyTorch's has to show, also where only PyTorch is measured."""
    model = onnx.load(small_run.paths.onnx_model)
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "fc3.bias")
    shifted = numpy_helper.to_array(bias) + 5 * np.eye(10, dtype=np.float32)[3]
    bias.CopyFrom(numpy_helper.from_array(shifted, bias.name))
    onnx.save(model, tmp_path / "other.onnx")
    file = run_benchmark(small_run, tmp_path, tmp_path / "other.onnx", backends=["pytorch-fp32"])
    parity = json.loads(file.read_text(encoding="utf-8"))["parity"]
    assert parity["max_abs_diff"] > 0.1
    assert parity["argmax_agreement"] < 1


@pytest.mark.parametrize("share", [0, 50, 99])
def test_benchmark_of_truncated_file_raises_one_line(small_run: Params, tmp_path: Path, share: int) -> None:
    content = Path(small_run.paths.onnx_model).read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) * share // 100])
    with pytest.raises(RunError, match=r"cut\.onnx") as caught:
        run_benchmark(small_run, tmp_path, tmp_path / "cut.onnx")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "b.json").exists()


def test_benchmark_of_foreign_model_raises_one_line(small_run: Params, tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(RunError, match=r"other\.onnx is ") as caught:
        run_benchmark(small_run, tmp_path, tmp_path / "other.onnx")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "batch_sizes: ",
            "batch_sizes: [0] #",
            "benchmark.batch_sizes.0 should be an integer from 1 to 50000, not 0",
        ),
        (
            "batch_sizes: ",
            "batch_sizes: [1, -8] #",
            "benchmark.batch_sizes.1 should be an integer from 1 to 50000, not -8",
        ),
        ("batch_sizes: ", "batch_sizes: [] #", "benchmark.batch_sizes"),
        ("threads: ", "threads: [0] #", "benchmark.threads.0 should be an integer from 1 to 1024, not 0"),
        (
            "threads: ",
            "threads: [1, -2] #",
            "benchmark.threads.1 should be an integer from 1 to 1024, not -2",
        ),
        ("threads: ", "threads: 2 #", "benchmark.threads should be a list"),
        (
            "min_rounds: ",
            "min_rounds: 4 #",
            "benchmark.min_rounds should be an integer from 5 to 1000, not 4",
        ),
        ("  providers: ", "  providers: [ROCm] #", "benchmark.providers.0 should be 'CPUExecutionProvider'"),
        ("    - onnxruntime-int8", "    - onnxruntime-int4", "benchmark.backends.1 should be"),
        (
            "server_target_latency_ms: ",
            "server_target_latency_ms: 0.0 #",
            "benchmark.server_target_latency_ms should be a number greater than 0 and at most 8.64e+07",
        ),
    ],
)
def test_benchmark_params_out_of_range_raise(tmp_path: Path, before: str, after: str, message: str) -> None:
    text = (PARAMS_FILE).read_text(encoding="utf-8")
    section, rest = text.split("\nbenchmark:", 1)
    assert before in rest
    (tmp_path / "params.yaml").write_text(
        section + "\nbenchmark:" + rest.replace(before, after, 1), encoding="utf-8"
    )
    with pytest.raises(InputError) as caught:
        read_params(tmp_path / "params.yaml")
    assert str(caught.value).startswith(f"params.yaml: {message}")
    assert len(str(caught.value).splitlines()) == 1


def test_server_that_answers_nothing_in_time_has_no_rate() -> None:
    """A rate of 0 images/s would read as a capacity of zero."""
    server = {"images_per_second": 0.0, "failed_images_per_second": 1234.5, "latency_bound_ms": 5.0}
    assert _describe_server(server) == (
        "not measured: even at 1,234 images/s fewer than 99 of 100 were answered within 5 ms"
    )
    assert _describe_server(server | {"images_per_second": 1000.0}) == "1,000 images/s"
