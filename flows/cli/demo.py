"""`cifarflow demo`: a local page with a classifier of images, sliders for three toys, and a list of all."""

from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from flows.cli.demo_image import IMAGE_CSS, build_image_tab
from flows.cli.demo_server import MAX_UPLOAD_BYTES, serve
from flows.cli.demo_toys import build_toys_tab
from flows.server.process import HOST
from flows.toys.gradient_descent import Point, descend, gradient
from flows.toys.gradient_descent import loss as squared_error
from flows.toys.gradient_descent import plot as plot_gradient_descent
from flows.toys.loss import plot_example, predict
from flows.toys.neuron import ACTIVATIONS, activate, multiply
from flows.toys.neuron import plot as plot_neuron

GOOD_LEARNING_RATE = 0.03  # shown beside the chosen one
EXAMPLE = (2.0, 7.0)  # the talk's x and y
START: Point = (-4.0, 1.0)
MAX_STEPS = 60
DELETE_AFTER_S = (30, 300)  # how often Gradio looks for files to delete, and how old they are then
# Gradio's own themes load their fonts from another server.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = f"{IMAGE_CSS} .figure svg {{ max-width: 100%; height: auto }}"


def launch(onnx_model: Path, splits: Path, port: int | None = None, record_file: Path | None = None) -> None:
    """Serve the page to its user until Ctrl-C.

    `InputError` if the port is in use, or if nothing can be recorded in `record_file`.
    """
    blocks = build_app(onnx_model, splits, record_file)

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


def build_app(onnx_model: Path, splits: Path, record_file: Path | None = None) -> gr.Blocks:
    blocks = gr.Blocks(title="cifarflow", analytics_enabled=False, delete_cache=DELETE_AFTER_S)
    with blocks:
        gr.Markdown("# From one neuron to a classifier")
        with gr.Tab("An image"):
            build_image_tab(blocks, onnx_model, splits, record_file)
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
