"""Compare the stage's figures for OpenVINO with those of OpenVINO's own program, `benchmark_app`.

    python benchmarks/openvino_peer.py [--rounds 5] [--seconds 2]

Both measure the same file in interleaved rounds: one image at a time, and as many batches at once as OpenVINO
chooses. The table has images per second, median with minimum and maximum, and the ratio of the stage to the
program, as the median of the rounds' ratios. The script needs artifacts/, so run the pipeline first. Run it
on an idle machine.
"""

import argparse
import re
import statistics
import subprocess
import sys
from pathlib import Path

from tasks.benchmarking.backend_process import BackendProcess
from tasks.benchmarking.backends import Backend, ModelPaths
from tasks.params import read_params
from tasks.workspace.splits import load_splits

BENCHMARK_APP = str(Path(sys.executable).with_name("benchmark_app"))
BATCH_SIZES = [1, 32, 256]


def run_benchmark_app(model: Path, shape: list[int], seconds: float, mode: str) -> float:
    """Return the images per second that the program prints, with the same hints as in the stage."""
    command = [BENCHMARK_APP, "-m", str(model), "-d", "CPU", "-infer_precision", "f32", "-hint", mode]
    command += ["-api", {"latency": "sync", "throughput": "async"}[mode]]
    command += ["-shape", str(shape).replace(" ", ""), "-t", str(max(1, round(seconds)))]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Throughput:\s+([\d.]+) FPS", output)
    assert found is not None, output
    return float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    arguments = parser.parse_args()
    paths = read_params(Path("params.yaml")).paths
    models = ModelPaths(paths.weights, paths.onnx_model, paths.int8_model)
    test = load_splits(Path(paths.splits)).test
    assert test.location is not None
    shape = tuple(test.images.shape)
    print("| precision | hint | batch | stage | benchmark_app | ratio |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for precision in ("fp32", "int8"):
        backend = Backend("openvino", precision, "CPU")
        threads = 2
        with BackendProcess(backend, models, [threads], BATCH_SIZES, (*test.location, shape)) as process:
            process.wait_until_loaded()
            for mode, batch_size in [("latency", 1), *(("throughput", size) for size in BATCH_SIZES)]:
                pairs = []
                for _ in range(arguments.rounds):
                    if mode == "latency":
                        calls = process.call("time_calls", threads, batch_size, arguments.seconds)
                        ours = batch_size / statistics.mean(calls)
                    else:
                        ours = process.call("time_offline", batch_size, arguments.seconds)
                    size = [batch_size, *shape[1:]]
                    theirs = run_benchmark_app(backend.select_file(models), size, arguments.seconds, mode)
                    pairs.append((ours, theirs))
                cells = [
                    f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
                    for rates in zip(*pairs, strict=True)
                ]
                ratio = statistics.median(ours / theirs for ours, theirs in pairs)
                print(f"| {precision} | {mode} | {batch_size} | {' | '.join(cells)} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
