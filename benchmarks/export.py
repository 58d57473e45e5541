"""What ships against other graphs, other engines and other session options: pictures a second, in one run.

    python benchmarks/export.py [--rounds 11] [--threads 2]   # graphs and engines
    python benchmarks/export.py --options                     # ONNX Runtime's session options
    python benchmarks/export.py --profile                     # where the time goes, on one thread

All take turns, so that a change of the machine's speed hits all; a ratio is the median of the rounds' ratios
to the first line. Needs artifacts/, so run the pipeline first.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil
import torch
import torch._inductor
from graphs import variants

from models.classifier import Classifier
from tasks.export import torch_onnx_export
from tasks.inference.backends import BackendUnavailableError, ModelPaths, expand_backends
from tasks.params import read_params
from tasks.workspace.splits import load_splits
from tasks.workspace.weights import load_classifier

SIZES = (1, 32, 256)
SECONDS = 0.15
REST_S = (
    0.06  # before a turn: ONNX Runtime's threads spin for 40 ms in wait for work, and take it from the next
)
Run = Callable[[np.ndarray], object]


def session(model: bytes | str, threads: int, **settings: object) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    for name, value in settings.items():
        if "." in name:
            options.add_session_config_entry(name, str(value))
        else:
            setattr(options, name, value)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def plain_call(opened: onnxruntime.InferenceSession) -> Run:
    return lambda batch: opened.run(None, {"images": batch})[0]


def bound_call(opened: onnxruntime.InferenceSession) -> Run:
    """IO binding: input and output stay where they are from call to call."""
    binding = opened.io_binding()

    def run(batch: np.ndarray) -> object:
        binding.bind_cpu_input("images", batch)
        binding.bind_output("probabilities", "cpu")
        opened.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]

    return run


def rate(run: Run, batch: np.ndarray, seconds: float) -> float:
    calls, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        run(batch)
        calls += 1
    return calls * len(batch) / taken


def in_turns(ways: dict[str, Run], images: np.ndarray, rounds: int) -> None:
    """Print a Markdown table: for each way and batch size the median, and the ratio to the first way."""
    reference = np.asarray(next(iter(ways.values()))(images))
    print("| way | " + " | ".join(f"batch {size} | ratio" for size in SIZES) + " | classes that differ |")
    print("| --- |" + " ---: |" * (2 * len(SIZES) + 1))
    cells: dict[str, list[str]] = {way: [] for way in ways}
    for size in SIZES:
        batch = np.ascontiguousarray(images[:size])
        for run in ways.values():
            rate(run, batch, SECONDS)
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, run in ways.items():
                time.sleep(REST_S)
                run(batch)
                rates[way].append(rate(run, batch, SECONDS))
        first = next(iter(rates.values()))
        for way, measured in rates.items():
            ratios = sorted(a / b for a, b in zip(measured, first, strict=True))
            cells[way] += [
                f"{statistics.median(measured):,.0f}",
                f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            ]
    for way, run in ways.items():
        others = int((np.asarray(run(images)).argmax(1) != reference.argmax(1)).sum())
        print(f"| {way} | {' | '.join(cells[way])} | {others} |")


def aot_inductor(classifier: Classifier, folder: str) -> Run:
    """PyTorch's ahead-of-time compiler, with the weights frozen into the code; needs a C++ compiler."""
    classifier.to(memory_format=torch.channels_last)
    example = torch.zeros(32, 32, 32, 3, dtype=torch.uint8)
    with torch.inference_mode(), torch._inductor.config.patch(freezing=True):
        exported = torch.export.export(
            classifier, (example,), dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}}
        )
        package = torch._inductor.aoti_compile_and_package(exported, package_path=f"{folder}/model.pt2")
    compiled = torch._inductor.aoti_load_package(package)
    return lambda batch: compiled(torch.from_numpy(batch)).numpy()


def graphs_and_engines(ships: Path, threads: int) -> dict[str, Run]:
    classifier, _ = load_classifier(Path("artifacts/model.safetensors"))
    plain = torch_onnx_export(classifier, 18).SerializeToString()
    ways = {"PyTorch's exporter": plain_call(session(plain, threads))}
    for name, model in variants(classifier):
        ways[name] = plain_call(session(model.SerializeToString(), threads))
    ways["… and padded to 16 channels: **what ships**"] = plain_call(session(str(ships), threads))
    with tempfile.TemporaryDirectory() as folder:
        optimized = str(Path(folder, "optimized.onnx"))
        session(str(ships), threads, optimized_model_filepath=optimized)
        ways["what ships, optimized offline for this machine"] = plain_call(session(optimized, threads))
        Path(folder, "plain.onnx").write_bytes(plain)
        for of, file in (("PyTorch's exporter", str(Path(folder, "plain.onnx"))), ("what ships", str(ships))):
            models = ModelPaths("artifacts/model.safetensors", file, "artifacts/model.int8.onnx")
            names = ["openvino-fp32"]
            if of == "what ships":
                names += ["openvino-int8", "pytorch-fp32", "torchscript-fp32", "onnxruntime-int8"]
            for engine in expand_backends(names, ["CPUExecutionProvider"]):
                try:
                    run = engine.load(models, threads)
                except BackendUnavailableError as error:
                    print(f"{engine.name}: not measured; {error}")
                    continue
                ways[f"{engine.name}{f', {of}' if engine.name == 'openvino-fp32' else ''}"] = run
        torch.set_num_threads(threads)
        ways["AOTInductor, channels last"] = aot_inductor(classifier, folder)
    return ways


def session_options(ships: Path, threads: int) -> dict[str, Run]:
    file = str(ships)
    level = onnxruntime.GraphOptimizationLevel
    spinning, stop = "session.intra_op.allow_spinning", "session.force_spinning_stop"
    return {
        "defaults": plain_call(session(file, threads)),
        "one thread": plain_call(session(file, 1)),
        "no spinning": plain_call(session(file, threads, **{spinning: "0"})),
        "spinning ends with the call": plain_call(session(file, threads, **{stop: "1"})),
        "optimization: extended, no layout": plain_call(
            session(file, threads, graph_optimization_level=level.ORT_ENABLE_EXTENDED)
        ),
        "optimization: none": plain_call(
            session(file, threads, graph_optimization_level=level.ORT_DISABLE_ALL)
        ),
        "no arena": plain_call(session(file, threads, enable_cpu_mem_arena=False)),
        "no memory pattern": plain_call(session(file, threads, enable_mem_pattern=False)),
        "IO binding": bound_call(session(file, threads)),
    }


def profile(models: dict[str, bytes], images: np.ndarray, sizes: Sequence[int]) -> None:
    """Print where the time goes on one thread, and how fast the processor can be."""
    side = 512
    a, b = torch.rand(side, side), torch.rand(side, side)
    torch.set_num_threads(1)
    for _ in range(20):
        a @ b
    began = time.perf_counter()
    for _ in range(50):
        a @ b
    gflops = 50 * 2 * side**3 / (time.perf_counter() - began) / 1e9
    print(f"a matrix product, {side} x {side}, on one thread: {gflops:.0f} GFLOP/s")
    for name, model in models.items():
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                running = session(model, 1, enable_profiling=True, profile_file_prefix=f"{folder}/p")
                batch = np.ascontiguousarray(images[:size])
                for _ in range(100):
                    running.run(None, {"images": batch})
                events = json.loads(Path(running.end_profiling()).read_text(encoding="utf-8"))
            spent: dict[str, list[int]] = {}
            for event in events:
                if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                    label = f"{event['args']['op_name']} {event['name'].removesuffix('_kernel_time')}"
                    spent.setdefault(label, []).append(event["dur"])
            each = {label: statistics.median(times) / size for label, times in spent.items()}
            print(f"\n{name}, batch {size}: {sum(each.values()):.1f} µs a picture")
            for label, microseconds in sorted(each.items(), key=lambda item: -item[1]):
                print(f"  {microseconds:6.2f}  {microseconds / sum(each.values()):4.0%}  {label}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--options", action="store_true", help="ONNX Runtime's session options")
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    chosen = parser.parse_args()
    params = read_params(Path("params.yaml"))
    ships = Path(params.paths.onnx_model)
    images = load_splits(Path(params.paths.splits)).test.images.numpy()
    if chosen.profile:
        classifier, _ = load_classifier(Path(params.paths.weights))
        plain = torch_onnx_export(classifier, 18)
        onnx.checker.check_model(plain)
        models = {"PyTorch's exporter": plain.SerializeToString(), "what ships": ships.read_bytes()}
        profile(models, images, (32, 256))
        return
    psutil.cpu_percent()
    print(f"threads {chosen.threads}, {chosen.rounds} rounds of {SECONDS} s; pictures a second, medians\n")
    ways = session_options if chosen.options else graphs_and_engines
    in_turns(ways(ships, chosen.threads), images, chosen.rounds)
    print(f"\nthe machine's processors were busy for {psutil.cpu_percent():.0f}% of the time")


if __name__ == "__main__":
    main()
