"""The demo's page has a tab that classifies an image and shows why, tabs for three toys, and all toys."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray

from flows.cli.demo_server import MAX_UPLOAD_BYTES, serve
from flows.cli.demo_toys import build_toys_tab
from flows.cli.project import NOT_SURE
from flows.server.process import HOST
from flows.toys.gradient_descent import Point, descend, gradient
from flows.toys.gradient_descent import loss as squared_error
from flows.toys.gradient_descent import plot as plot_gradient_descent
from flows.toys.loss import plot_example, predict
from flows.toys.neuron import ACTIVATIONS, activate, multiply
from flows.toys.neuron import plot as plot_neuron
from tasks.dataset.image import load_image
from tasks.drift.recorded_outputs import OutputRecorder
from tasks.inference.explain import NeighborIndex, explain
from tasks.inference.onnx_classifier import OnnxClassifier, load_model
from tasks.reporting.gallery import draw_evidence
from tasks.reporting.markdown import escape_markdown
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
f(x; θ) = ŷ gives another prediction ŷ for the same input x when the parameters θ change. Here θ stays and x
changes: a gray square covers one part of the image after the other. Where ŷ falls most, the decision was
made.
"""
NEAREST = "The training images of the first class in which the network finds the most similar patterns:"
GOOD_LEARNING_RATE = 0.03  # It is shown beside the chosen one.
EXAMPLE = (2.0, 7.0)  # These are the talk's x and y.
START: Point = (-4.0, 1.0)
MAX_STEPS = 60
DELETE_AFTER_S = (30, 300)  # Gradio looks this often for files to delete that are this old.
# Gradio's own themes load their fonts from another server.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = f"{IMAGE_CSS} .figure svg {{ max-width: 100%; height: auto }}"


def launch(
    onnx_model: Path,
    splits: Path,
    port: int | None = None,
    record_file: Path | None = None,
    confident: float | None = None,
    name: str = "",
) -> None:
    """Serve the page to its user until Ctrl-C. With `confident`, it says where the model is not sure.

    `name` is the project's, or empty.

    `InputError` if the port is in use, or if nothing can be recorded in `record_file`.
    """
    blocks = build_app(onnx_model, splits, record_file, confident, name)

    def mount(app: FastAPI, path: str) -> None:
        gr.mount_gradio_app(
            app,
            blocks,
            path,
            server_name=HOST,
            theme=THEME,
            css=CSS,
            max_file_size=MAX_UPLOAD_BYTES,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
        )

    try:
        serve(mount, port)
    except KeyboardInterrupt:
        print("stopped")


def build_app(
    onnx_model: Path,
    splits: Path,
    record_file: Path | None = None,
    confident: float | None = None,
    name: str = "",
) -> gr.Blocks:
    blocks = gr.Blocks(title=name or "cifarflow", analytics_enabled=False, delete_cache=DELETE_AFTER_S)
    with blocks:
        gr.Markdown(f"# {escape_markdown(name) or 'From one neuron to a classifier'}")
        with gr.Tab("An image"):
            build_image_tab(blocks, onnx_model, splits, record_file, confident)
        for title, build_tab in (
            ("A neuron", _neuron_tab),
            ("A loss", _loss_tab),
            ("Gradient descent", _gradient_descent_tab),
        ):
            with gr.Tab(title):
                build_tab(blocks)
        with gr.Tab("All toys"):
            build_toys_tab()
    # Matplotlib's settings are process-wide: one figure at a time.
    blocks.queue(default_concurrency_limit=1)
    return blocks


@dataclass
class _Classifier:
    model: OnnxClassifier
    neighbors: NeighborIndex | None
    recorder: OutputRecorder | None
    examples: Sequence[NDArray[np.uint8]]
    """test images, which are not recorded, since the visitor brought none of them"""
    confident: float | None = None
    """smallest probability of an answer; None: there is always one"""
    recorded: Sequence[NDArray[np.uint8]] = ()
    """the last image that was recorded, if any; Gradio may report one change twice"""

    def classify(self, file: str | None) -> tuple[Any, Any, Any, Any, Any]:
        """Return what the network sees, what moved it, answer, probabilities, nearest training images."""
        if file is None:
            return None, None, None, None, None
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
        return image, evidence, self._answer(probabilities), top, nearest

    def _answer(self, probabilities: NDArray[np.float32]) -> str:
        if self.confident is None:
            return ""
        answer = self.model.answer(probabilities, self.confident)
        least = f"a probability of at least {self.confident:.0%}"
        return f"**{NOT_SURE}**: no class has {least}" if answer is None else f"**{answer}**, with {least}"

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
    blocks: gr.Blocks,
    onnx_model: Path,
    splits: Path,
    record_file: Path | None = None,
    confident: float | None = None,
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
            answer = gr.Markdown(visible=confident is not None)
            probabilities = gr.Label(num_top_classes=len(model.classes), label="probabilities")
    gr.Markdown(WHY)
    gr.Markdown(NEAREST, visible=bool(data))
    nearest = gr.Gallery(label="nearest training images", visible=bool(data), **GALLERY_OPTIONS)

    if examples:

        def choose(event: gr.SelectData) -> NDArray[np.uint8]:
            return examples[int(event.index)][0]

        gallery.select(choose, None, image, show_progress="hidden")

    index = NeighborIndex(onnx_model, data.train.images.numpy(), data.train.labels.numpy()) if data else None
    classifier = _Classifier(model, index, recorder, [example for example, _ in examples], confident)
    classify, outputs = classifier.classify, [seen, evidence, answer, probabilities, nearest]
    image.change(classify, image, outputs, show_progress="hidden")
    blocks.load(classify, image, outputs, show_progress="hidden")


def _load_matching_splits(model: OnnxClassifier, splits: Path) -> Splits | None:
    """Return the splits if they have the model's classes and image size; else write a note on the page."""
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
    """Return the first test image of each class, and the class's name."""
    labels = data.test.labels.tolist()
    return [
        (data.test.images[labels.index(label)].numpy(), name)
        for label, name in enumerate(data.metadata["classes"][:MAX_EXAMPLES])
        if label in labels
    ]


def _neuron_tab(blocks: gr.Blocks) -> None:
    gr.Markdown("`f(w0 + x1·w1 + x2·w2 + x3·w3)`: multiply, sum, add the bias, activate.")
    with gr.Row():
        with gr.Column(scale=1):
            inputs = [_slider(f"x{i}", -5, 5, value) for i, value in enumerate((1.0, 2.0, 3.0), start=1)]
            bias = _slider("w0, the bias", -3, 3, 0.5)
            weights = [_slider(f"w{i}", -3, 3, value) for i, value in enumerate((0.8, -0.4, 0.2), start=1)]
            activation = gr.Radio(list(ACTIVATIONS), value="sigmoid", label="activation f")
        with gr.Column(scale=2):
            output, figure = gr.Textbox(label="output"), gr.HTML(elem_classes="figure")

    def update(*values: Any) -> tuple[str, str]:
        *numbers, activation = values
        x, w0, w = numbers[:3], numbers[3], numbers[4:]
        z = w0 + sum(multiply(x, w))
        return f"f({z:.4g}) = {activate(z, activation):.4f}", plot_neuron(x, w, w0, z, activation)

    _update_on_change(blocks, update, [*inputs, bias, *weights, activation], [output, figure])


def _loss_tab(blocks: gr.Blocks) -> None:
    gr.Markdown("The talk's example: one weight, one bias, one point. J(θ) is the squared error.")
    with gr.Row():
        with gr.Column(scale=1):
            x, y = _slider("x, the input", -5, 5, EXAMPLE[0]), _slider("y, the target", -10, 10, EXAMPLE[1])
            w0, b0 = _slider("w0, the weight", -5, 5, 1.0), _slider("b0, the bias", -5, 5, 3.0)
        with gr.Column(scale=2):
            output, figure = gr.Textbox(label="prediction and loss"), gr.HTML(elem_classes="figure")

    def update(x: float, y: float, w0: float, b0: float) -> tuple[str, str]:
        prediction, loss = predict(x, w0, b0), squared_error((w0, b0), x, y)
        return f"ŷ = {prediction:.4g}, J(θ) = {loss:.4g}", plot_example(x, y, w0, b0)

    _update_on_change(blocks, update, [x, y, w0, b0], [output, figure])


def _gradient_descent_tab(blocks: gr.Blocks) -> None:
    gr.Markdown(
        "`θ <- θ - α·∇J` on the loss example's surface over (w0, b0), "
        f"beside a good learning rate, {GOOD_LEARNING_RATE}."
    )
    with gr.Row():
        with gr.Column(scale=1):
            learning_rate = gr.Slider(0.001, 0.25, value=0.1, step=0.001, label="learning rate α")
            w0, b0 = _slider("w0 at the start", -5, 5, START[0]), _slider("b0 at the start", -5, 5, START[1])
        with gr.Column(scale=2):
            output, figure = gr.Textbox(label="outcome"), gr.HTML(elem_classes="figure")

    def update(learning_rate: float, w0: float, b0: float) -> tuple[str, str]:
        chosen, good = (
            descend(lambda point: gradient(point, *EXAMPLE), (w0, b0), rate, max_steps=MAX_STEPS)
            for rate in (learning_rate, GOOD_LEARNING_RATE)
        )
        loss = round(squared_error(chosen.path[-1], *EXAMPLE), 9)
        return (
            f"{chosen.outcome}; steps: {len(chosen.path) - 1}; J(θ) = {loss:.4g}",
            plot_gradient_descent(EXAMPLE, [(learning_rate, chosen), (GOOD_LEARNING_RATE, good)]),
        )

    _update_on_change(blocks, update, [learning_rate, w0, b0], [output, figure])


def _slider(label: str, low: float, high: float, value: float) -> gr.Slider:
    return gr.Slider(low, high, value=value, step=0.1, label=label)


def _update_on_change(blocks: gr.Blocks, update: Any, inputs: list[Any], outputs: list[Any]) -> None:
    """Call `update` when the page loads and whenever an input changes."""
    for component in inputs:
        component.change(update, inputs, outputs, show_progress="hidden", trigger_mode="always_last")
    blocks.load(update, inputs, outputs, show_progress="hidden")
