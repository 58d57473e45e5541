"""The demo's first tab: classes of an image, what the network sees of it, and what moved the decision."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from tasks.dataset.image import load_image
from tasks.drift.recorded_outputs import OutputRecorder
from tasks.inference.explain import NeighborIndex, explain
from tasks.inference.onnx_classifier import OnnxClassifier, load_model
from tasks.reporting.gallery import draw_evidence
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.splits import Splits, load_splits

IMAGE_CSS = """
.pixels img { image-rendering: pixelated; width: 100%; height: 100%; object-fit: contain }
.thumbnails .grid-wrap { height: auto; min-height: 0; max-height: 30rem }
.thumbnails .grid-container { grid-template-columns: repeat(auto-fill, minmax(5.2rem, 1fr)) }
"""
IMAGE_OPTIONS: dict[str, Any] = {
    "format": "png",  # lossless
    "show_label": False,
    "height": 256,
    "buttons": [],
    "elem_classes": "pixels",
}
GALLERY_OPTIONS: dict[str, Any] = {
    "format": "png",
    "show_label": False,
    "height": "auto",
    "interactive": False,
    "allow_preview": False,
    "buttons": [],
    "elem_classes": ["pixels", "thumbnails"],
}
MAX_EXAMPLES = 100
NUM_NEIGHBORS = 6
DELETED = "after some minutes, at the latest when the demo ends"
WHY = """
In the talk, f(x; θ) = ŷ gives another prediction ŷ for the same input x when the parameters θ change. Here θ
stays and x changes: a gray square covers one part of the image after the other. Where ŷ falls most, the
decision was made.
"""
NEAREST = "The training images of the first class in which the network finds the most similar patterns:"


@dataclass
class _Classifier:
    model: OnnxClassifier
    neighbors: NeighborIndex | None
    recorder: OutputRecorder | None
    examples: Sequence[NDArray[np.uint8]]
    """test images, which are not recorded: the visitor brought none of them"""
    recorded: Sequence[NDArray[np.uint8]] = ()
    """the last image that was, if any; Gradio may report one change twice"""

    def classify(self, file: str | None) -> tuple[Any, Any, Any, Any]:
        """What the network sees, what moved it, the probabilities, and the nearest training images."""
        if file is None:
            return None, None, None, None
        try:
            image = load_image(Path(file), self.model.image_size)
        except InputError as error:
            raise gr.Error(str(error)) from error
        probabilities = self.model.predict_proba(image[None])[0]
        self._record(image, probabilities)
        first = int(probabilities.argmax())
        evidence = draw_evidence(image, explain(self.model, image, first).evidence)
        top = dict(self.model.top_k(probabilities, len(self.model.classes)))
        nearest = self.neighbors.find_images(image, first, NUM_NEIGHBORS) if self.neighbors else []
        return image, evidence, top, nearest

    def _record(self, image: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> None:
        known = (*self.examples, *self.recorded)
        if self.recorder is None or any(np.array_equal(image, other) for other in known):
            return
        try:
            self.recorder.append(probabilities[None])
            self.recorded = [image]
        except RunError as error:
            gr.Warning(str(error))


def build_image_tab(
    blocks: gr.Blocks, onnx_model: Path, splits: Path, record_file: Path | None = None
) -> None:
    try:
        model = load_model(onnx_model)
    except RunError as error:
        gr.Markdown(f"No model available yet: {error}")
        return
    data = _load_matching_splits(model, splits)
    examples = _first_image_per_class(data) if data else []
    size = model.image_size
    gr.Markdown(f"Drop an image, or choose a test image. Model: `{onnx_model}`, {model.dataset_label}.")
    gr.Markdown(f"Your images stay on this machine, in a folder of yours, and are deleted {DELETED}.")
    recorder = OutputRecorder(record_file, onnx_model) if record_file else None
    if recorder:
        gr.Markdown(f"Their probabilities, not the images, are recorded in `{record_file}`.")
    if examples:
        gallery = gr.Gallery(examples, label="the first test image of each class", **GALLERY_OPTIONS)
    with gr.Row():
        with gr.Column(min_width=200):
            gr.Markdown("The image")
            image = gr.Image(
                examples[0][0] if examples else None,
                type="filepath",
                sources=["upload", "clipboard"],
                **IMAGE_OPTIONS,
            )
        with gr.Column(min_width=200):
            gr.Markdown(f"What the network sees: {size} x {size} pixels")
            seen = gr.Image(label="seen", interactive=False, **IMAGE_OPTIONS)
        with gr.Column(min_width=200):
            gr.Markdown("What speaks for the first class (orange), and against it (blue)")
            evidence = gr.Image(label="evidence", interactive=False, **IMAGE_OPTIONS)
        with gr.Column(min_width=200):
            probabilities = gr.Label(num_top_classes=len(model.classes), label="probabilities")
    gr.Markdown(WHY)
    gr.Markdown(NEAREST, visible=bool(data))
    nearest = gr.Gallery(label="nearest training images", visible=bool(data), **GALLERY_OPTIONS)

    if examples:

        def choose(event: gr.SelectData) -> NDArray[np.uint8]:
            return examples[int(event.index)][0]

        gallery.select(choose, None, image, show_progress="hidden")

    index = NeighborIndex(onnx_model, data.train.images.numpy(), data.train.labels.numpy()) if data else None
    classifier = _Classifier(model, index, recorder, [example for example, _ in examples])
    classify, outputs = classifier.classify, [seen, evidence, probabilities, nearest]
    image.change(classify, image, outputs, show_progress="hidden")
    blocks.load(classify, image, outputs, show_progress="hidden")


def _load_matching_splits(model: OnnxClassifier, splits: Path) -> Splits | None:
    """The splits, if they have the model's classes and size of images; else a note on the page."""
    try:
        data = load_splits(splits)
    except RunError as error:
        gr.Markdown(f"No example images: {error}")
        return None
    if data.metadata["classes"] == model.classes and data.image_size == model.image_size:
        return data
    gr.Markdown(f"No example images: {splits} has other classes or sizes than the model")
    return None


def _first_image_per_class(data: Splits) -> list[tuple[NDArray[np.uint8], str]]:
    """The first test image of each class, and the class's name."""
    labels = data.test.labels.tolist()
    return [
        (data.test.images[labels.index(label)].numpy(), name)
        for label, name in enumerate(data.metadata["classes"][:MAX_EXAMPLES])
        if label in labels
    ]
