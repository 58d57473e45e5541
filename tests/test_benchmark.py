import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tasks.benchmark import benchmark
from tasks.errors import InputError, RunError
from tasks.params import Benchmark, Params, read_params

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def measured(small_run: Params) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(Path(small_run.paths.benchmarks).read_text(encoding="utf-8"))
    return read


def benchmarked(small_run: Params, folder: Path, model: Path | None = None, **changes: object) -> Path:
    """The stage `benchmark` with another folder to write to, another model, other options."""
    options = Benchmark.model_validate(small_run.benchmark.model_dump() | changes)
    paths = small_run.paths
    benchmark(
        Path(paths.splits), Path(paths.weights), model or Path(paths.onnx_model), folder / "b.json", options
    )
    return folder / "b.json"


def test_every_engine_at_every_batch_size(small_run: Params, measured: dict[str, Any]) -> None:
    rows = measured["results"]
    engines = {(row["engine"], row["provider"], row["precision"]) for row in rows}
    assert {("onnxruntime", "CPUExecutionProvider", "fp32"), ("pytorch", "cpu", "fp32")} <= engines
    assert {row["batch_size"] for row in rows} == set(small_run.benchmark.batch_sizes)
    assert len(rows) == len(engines) * len(small_run.benchmark.batch_sizes)


def test_rows_hold_together(small_run: Params, measured: dict[str, Any]) -> None:
    for row in measured["results"]:
        latency = row["latency_ms"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]
        assert row["images_per_second"] == pytest.approx(row["batch_size"] / latency["p50"] * 1000, rel=0.5)
        assert row["threads"] == small_run.benchmark.threads
        assert 0 <= row["accuracy"] <= 1


def test_accuracy_is_that_of_evaluate(small_run: Params, measured: dict[str, Any]) -> None:
    metrics = json.loads(Path(small_run.paths.metrics).read_text(encoding="utf-8"))
    for row in measured["results"]:
        if row["precision"] == "fp32":
            assert row["accuracy"] == pytest.approx(metrics["test"]["accuracy"])


def test_parity_and_environment(measured: dict[str, Any]) -> None:
    assert measured["dataset"] == "sample"
    assert measured["parity"]["max_abs_diff"] < 1e-5
    assert measured["parity"]["argmax_agreement"] == 1.0
    assert {"cpu", "cores", "threads", "versions"} <= measured["environment"].keys()
    assert {"python", "onnxruntime", "torch"} <= measured["environment"]["versions"].keys()


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
        ("threads: ", "threads: 0 #", "benchmark.threads"),
        ("threads: ", "threads: -2 #", "benchmark.threads"),
        ("rounds: ", "rounds: 0 #", "benchmark.rounds should be greater than or equal to"),
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
