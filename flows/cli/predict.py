"""The command `cifarflow predict` prints the most probable classes of images. It loads no PyTorch."""

import glob
import io
import json
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from flows.cli.project import NOT_SURE, confident_option, enter_model_project, record_option
from tasks.dataset import image as image_files
from tasks.dataset.image import LeftOut, load_image
from tasks.drift.recorded_outputs import OutputRecorder
from tasks.inference.onnx_classifier import OnnxClassifier, load_model
from tasks.workspace.errors import InputError, escape_unprintable

TOP_K = 3
STDIN = "-"
MAX_STDIN_BYTES = 1 << 28
BATCH_SIZE = 64  # A batch is small, so that the first lines of a large set come soon.

TopK = list[tuple[str, float]]


@dataclass(frozen=True)
class Prediction:
    """The prediction of one image: its most probable classes, and the first of them if it is sure."""

    top_k: TopK
    answer: str | None


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per image.")
@confident_option
@record_option
@click.pass_obj
def predict(
    closed_streams: Collection[str],
    images: tuple[str, ...],
    *,
    as_json: bool,
    confident: float | None,
    record: Path | None,
) -> int:
    """Classify images: print the top 3 classes for each, using the champion or the exported model.

    IMAGE is a file, a directory, a pattern, or - for standard input, in any format and size.

    \b
    Example:
      cifarflow predict cat.jpg holiday/
    """
    if "stdin" in closed_streams and STDIN in images:
        raise InputError("standard input is closed, but - asks to read an image from it")
    if "stdout" in closed_streams:
        raise InputError("standard output is closed, so no class could be printed")
    start, model, model_label = enter_model_project()
    os.chdir(start)
    return predict_images(
        images,
        Path(os.path.relpath(model)),
        model_label,
        as_json=as_json,
        confident=confident,
        record_file=record,
    )


def predict_images(
    images: Sequence[str],
    onnx_model: Path,
    model_label: str = "",
    *,
    as_json: bool = False,
    confident: float | None = None,
    record_file: Path | None = None,
) -> int:
    """Print the three most probable classes of each image: a table, or JSON lines. Return the exit code.

    `images` are files, directories (searched recursively), glob patterns, and `-` for standard input. A
    missing or corrupt image is reported, skipped and counted, and makes the exit code 1. What is left out of
    a directory is named in one line. `InputError` if there is no image at all. `model_label` says which model
    it is. With `confident`, an answer precedes the classes: the first one, or that the model is not sure,
    since its probability is below `confident`.
    """
    left_out = LeftOut()
    files = {image: find_images(image, left_out) for image in images}
    names = [name for image in images for name in files[image]]
    missing = [image for image in images if not files[image]]
    if not names:
        note = f"; left out: {left_out}" if left_out else ""
        raise InputError(f"no image found at {', '.join(map(escape_unprintable, missing))}{note}")
    model = load_model(onnx_model)
    recorder = OutputRecorder(record_file, onnx_model) if record_file else None
    print(f"by {onnx_model}{model_label and f' ({model_label})'}, {model.dataset_label}", file=sys.stderr)

    if left_out:
        print(f"left out: {left_out}", file=sys.stderr)
    table = _Table(names, model.classes, has_answers=confident is not None)
    failed = 0
    for name, result in classify_files(names, missing, model, confident or 0.0, recorder):
        failed += isinstance(result, InputError)
        if as_json:
            print(json.dumps(_to_record(name, result, has_answers=confident is not None)), flush=True)
        elif isinstance(result, InputError):
            print(f"{escape_unprintable(name)}: {result}", file=sys.stderr)
        else:
            table.print_row(name, result)
    if failed:
        print(f"{failed} of {len(names) + len(missing)} could not be read", file=sys.stderr)
    return 1 if failed else 0


def find_images(image: str, left_out: LeftOut) -> list[str]:
    """Return the argument itself, the images below a directory, or the matches of a pattern."""
    path = Path(image)
    if image == STDIN:
        return [image]
    if path.is_dir():
        return [str(file) for file in image_files.find_images(path, left_out)]
    if path.exists():
        return [image]
    matches = sorted(glob.glob(image, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    return [match for match in matches if Path(match).is_file()]


def classify_files(
    names: Sequence[str],
    missing: Sequence[str],
    model: OnnxClassifier,
    confident: float = 0.0,
    recorder: OutputRecorder | None = None,
) -> Iterator[tuple[str, Prediction | InputError]]:
    for image in missing:
        yield image, InputError("no image found there")
    for start in range(0, len(names), BATCH_SIZE):
        batch = [(name, _read(name, model.image_size)) for name in names[start : start + BATCH_SIZE]]
        images = [read for _, read in batch if not isinstance(read, InputError)]
        probabilities = model.predict_proba(np.stack(images)) if images else None
        if recorder is not None and probabilities is not None:
            recorder.append(probabilities)
        rows = iter(() if probabilities is None else probabilities)
        for name, read in batch:
            if isinstance(read, InputError):
                yield name, read
            else:
                row = next(rows)
                yield name, Prediction(model.top_k(row, TOP_K), model.answer(row, confident))


def _read(name: str, size: int) -> NDArray[np.uint8] | InputError:
    try:
        if name != STDIN:
            return load_image(Path(name), size)
        given = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
        if len(given) > MAX_STDIN_BYTES:
            return InputError(f"more than {MAX_STDIN_BYTES >> 20} MiB")
        return load_image(io.BytesIO(given), size)
    except InputError as error:
        return error


def _to_record(name: str, result: Prediction | InputError, *, has_answers: bool) -> dict[str, object]:
    if isinstance(result, InputError):
        return {"image": name, "error": str(result)}
    answer = {"answer": result.answer} if has_answers else {}
    predictions = [{"class": c, "probability": round(p, 6)} for c, p in result.top_k]
    return {"image": name, **answer, "predictions": predictions}


class _Table:
    """A table that is printed row by row as results arrive. The header precedes the first row."""

    def __init__(self, names: Sequence[str], classes: Sequence[str], *, has_answers: bool) -> None:
        self.name_width = min(max(len(escape_unprintable(name)) for name in (*names, "image")), 60)
        self.class_width = max(map(len, classes))
        self.answer_width = max(self.class_width, len(NOT_SURE)) if has_answers else 0
        self.head = True

    def print_row(self, name: str, prediction: Prediction) -> None:
        if self.head:
            titles = ("top-1", "top-2", "top-3")
            cells = self._answer("answer") + [title.ljust(self.class_width + 7) for title in titles]
            print("image".ljust(self.name_width), *cells, sep="  ")
            self.head = False
        shown = escape_unprintable(name)
        shown = shown if len(shown) <= self.name_width else "…" + shown[1 - self.name_width :]
        cells = [f"{name:{self.class_width}} {probability:6.1%}" for name, probability in prediction.top_k]
        answer = self._answer(prediction.answer or NOT_SURE)
        print(shown.ljust(self.name_width), *answer, *cells, sep="  ", flush=True)

    def _answer(self, text: str) -> list[str]:
        return [text.ljust(self.answer_width)] if self.answer_width else []
