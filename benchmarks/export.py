"""Compare the exported model with other graphs, backends and session options in images per second.

    python benchmarks/export.py [--rounds 11] [--threads 2]   # graphs and backends
    python benchmarks/export.py --options                     # ONNX Runtime's session options

The rounds are interleaved, so that a change of the machine's speed affects all variants. A ratio is the
median of the rounds' ratios to the first line. The script needs artifacts/, so run the pipeline first.
benchmarks/onnx_profile.py shows which operators take the time.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import torch
import torch._inductor
from graph_variants import build_variants
from numpy.typing import NDArray
from throughput import Batch, Predict, create_session, format_ratio, measure_interleaved

from models.classifier import Classifier
from tasks.benchmarking.backends import BackendUnavailableError, ModelPaths, expand_backends
from tasks.inference.onnx_classifier import session_predictor
from tasks.onnx.graph import torch_onnx_export
from tasks.params import Params, read_params
from tasks.workspace.splits import load_splits
from tasks.workspace.weights import load_classifier

BATCH_SIZES = (1, 32, 256)
SECONDS = 0.15


def bind_predictor(session: onnxruntime.InferenceSession) -> Predict:
    """Return a predictor with IO binding: input and output keep their memory from call to call."""
    binding = session.io_binding()

    def predict(batch: Batch) -> object:
        binding.bind_cpu_input("images", batch)
        binding.bind_output("probabilities", "cpu")
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]

    return predict


def compile_aot_inductor(classifier: Classifier, folder: str) -> Predict:
    """Compile the model with PyTorch's AOTInductor and frozen weights; this needs a C++ compiler."""
    classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    example = torch.zeros(32, 32, 32, 3, dtype=torch.uint8)
    with torch.inference_mode(), torch._inductor.config.patch(freezing=True):
        exported = torch.export.export(
            classifier, (example,), dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}}
        )
        package = torch._inductor.aoti_compile_and_package(exported, package_path=f"{folder}/model.pt2")
    compiled = torch._inductor.aoti_load_package(package)
    return lambda batch: compiled(torch.from_numpy(batch)).numpy()


def load_graphs_and_backends(params: Params, threads: int) -> dict[str, Predict]:
    paths = params.paths
    classifier, _ = load_classifier(Path(paths.weights))
    plain = torch_onnx_export(classifier, 18).SerializeToString()
    predictors: dict[str, Predict] = {"PyTorch's exporter": session_predictor(create_session(plain, threads))}
    for name, model in build_variants(classifier):
        predictors[name] = session_predictor(create_session(model.SerializeToString(), threads))
    predictors["… and padded to 16 channels: **the exported model**"] = session_predictor(
        create_session(paths.onnx_model, threads)
    )
    with tempfile.TemporaryDirectory() as folder:
        optimized = str(Path(folder, "optimized.onnx"))
        create_session(paths.onnx_model, threads, optimized_model_filepath=optimized)
        predictors["exported model, optimized offline for this machine"] = session_predictor(
            create_session(optimized, threads)
        )
        Path(folder, "plain.onnx").write_bytes(plain)
        plain_models = ModelPaths(paths.weights, str(Path(folder, "plain.onnx")), paths.int8_model)
        exported_models = ModelPaths(paths.weights, paths.onnx_model, paths.int8_model)
        names = ["openvino-fp32", "openvino-int8", "pytorch-fp32", "torchscript-fp32", "onnxruntime-int8"]
        for graph, models, backends in (
            (", PyTorch's exporter", plain_models, names[:1]),
            ("", exported_models, names),
        ):
            for backend in expand_backends(backends, ["CPUExecutionProvider"]):
                try:
                    predictors[f"{backend.name}{graph}"] = backend.load(models, threads, BATCH_SIZES)
                except BackendUnavailableError as error:
                    print(f"{backend.name}: skipped; {error}")
        torch.set_num_threads(threads)
        predictors["AOTInductor, channels last"] = compile_aot_inductor(classifier, folder)
    return predictors


def load_session_options(params: Params, threads: int) -> dict[str, Predict]:
    file = params.paths.onnx_model
    level = onnxruntime.GraphOptimizationLevel
    settings: dict[str, dict[str, object]] = {
        "defaults": {},
        "one thread": {},
        "no spinning": {"session.intra_op.allow_spinning": "0"},
        "spinning ends with the call": {"session.force_spinning_stop": "1"},
        "optimization: extended, no layout": {"graph_optimization_level": level.ORT_ENABLE_EXTENDED},
        "optimization: none": {"graph_optimization_level": level.ORT_DISABLE_ALL},
        "no arena": {"enable_cpu_mem_arena": False},
        "no memory pattern": {"enable_mem_pattern": False},
    }
    predictors: dict[str, Predict] = {
        name: session_predictor(create_session(file, 1 if name == "one thread" else threads, **options))
        for name, options in settings.items()
    }
    return predictors | {"IO binding": bind_predictor(create_session(file, threads))}


def print_table(predictors: dict[str, Predict], images: NDArray[np.uint8], rounds: int) -> None:
    """Print a Markdown table: median and ratio to the first variant, by variant and batch size."""
    cells: dict[str, list[str]] = {name: [] for name in predictors}
    for batch_size in BATCH_SIZES:
        batch = np.ascontiguousarray(images[:batch_size])
        variants = {name: (predict, batch) for name, predict in predictors.items()}
        throughputs = measure_interleaved(variants, SECONDS, rounds)
        reference = next(iter(throughputs.values()))
        for name, values in throughputs.items():
            cells[name] += [f"{statistics.median(values):,.0f}", format_ratio(values, reference)]
    print("| variant | " + " | ".join(f"{size} | ratio" for size in BATCH_SIZES) + " | classes that differ |")
    print("| --- |" + " ---: |" * (2 * len(BATCH_SIZES) + 1))
    expected = np.asarray(next(iter(predictors.values()))(images)).argmax(1)
    for name, predict in predictors.items():
        mismatches = int((np.asarray(predict(images)).argmax(1) != expected).sum())
        print(f"| {name} | {' | '.join(cells[name])} | {mismatches} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--options", action="store_true", help="ONNX Runtime's session options")
    arguments = parser.parse_args()
    params = read_params(Path("params.yaml"))
    images = load_splits(Path(params.paths.splits)).test.images.numpy()
    psutil.cpu_percent()
    print(
        f"threads {arguments.threads}, {arguments.rounds} rounds of {SECONDS} s; images per second, medians\n"
    )
    load = load_session_options if arguments.options else load_graphs_and_backends
    print_table(load(params, arguments.threads), images, arguments.rounds)
    print(f"\nthe machine's processors were busy for {psutil.cpu_percent():.0f}% of the time")


if __name__ == "__main__":
    main()
