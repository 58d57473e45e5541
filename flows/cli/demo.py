"""`cifarflow demo`: a page on this machine where pictures are classified and the toys' sliders move."""

import os
import signal
from pathlib import Path
from typing import Any

from flows.toys import figures
from models.toys.gradient_descent import Point, gradient, gradient_descent
from models.toys.gradient_descent import loss as loss_at
from models.toys.loss import mean_squared_error, predict
from models.toys.neuron import ACTIVATIONS, activate, multiply
from tasks.dataset.image import load_image
from tasks.inference.onnx_classifier import OnnxClassifier, load_model
from tasks.workspace.errors import InputError, RunError

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read at import
try:
    import gradio as gr
except ImportError as error:
    raise InputError("the demo needs Gradio: pip install 'cifarflow[demo]'") from error

LOOPBACK = "127.0.0.1"
GOOD_LEARNING_RATE = 0.03  # the learning rate that the chosen one is shown beside
EXAMPLE = (2.0, 7.0)  # the talk's x and y
START: Point = (-4.0, 1.0)
STEPS = 60
# Gradio's own themes fetch their fonts from elsewhere.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = ".drawing svg { max-width: 100%; height: auto }"


def launch(onnx_model: Path, port: int | None = None) -> None:
    """Serve the page on the loopback interface until Ctrl-C. `InputError` where the port is taken."""
    blocks = build_app(onnx_model)
    try:
        _, url, _ = blocks.launch(
            server_name=LOOPBACK,
            server_port=port,
            theme=THEME,
            css=CSS,
            share=False,
            quiet=True,
            ssr_mode=False,
            prevent_thread_lock=True,
            footer_links=[],
        )
    except OSError as error:
        raise InputError(f"{LOOPBACK}:{port} is taken; give another --port") from error
    print(f"Open {url} in a browser. Ctrl-C ends it.", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        print("stopped")
    finally:
        blocks.close(verbose=False)


def build_app(onnx_model: Path) -> gr.Blocks:
    blocks = gr.Blocks(title="cifarflow", analytics_enabled=False)
    with blocks:
        gr.Markdown("# From one neuron to a classifier")
        with gr.Tab("A picture"):
            _image_tab(onnx_model)
        for title, toy in (
            ("A neuron", _neuron_tab),
            ("A loss", _loss_tab),
            ("Gradient descent", _gradient_descent_tab),
        ):
            with gr.Tab(title):
                toy(blocks)
    # Matplotlib's settings are the process's: one picture at a time.
    blocks.queue(default_concurrency_limit=1)
    return blocks


def _image_tab(onnx_model: Path) -> None:
    try:
        model = load_model(onnx_model)
    except RunError as error:
        gr.Markdown(f"No picture can be classified yet: {error}")
        return
    gr.Markdown(f"Drop a picture. By `{onnx_model}`, {model.dataset_label}.")
    with gr.Row():
        picture = gr.Image(type="filepath", label="picture", sources=["upload", "clipboard"], height=320)
        probabilities = gr.Label(num_top_classes=len(model.classes), label="probabilities")

    def classify(file: str | None) -> dict[str, float] | None:
        return None if file is None else _probabilities(model, Path(file))

    picture.change(classify, picture, probabilities, show_progress="hidden")


def _probabilities(model: OnnxClassifier, file: Path) -> dict[str, float]:
    try:
        read = load_image(file)
    except InputError as error:
        raise gr.Error(str(error)) from error
    return dict(model.top_k(model.predict_proba(read[None])[0], len(model.classes)))


def _neuron_tab(blocks: gr.Blocks) -> None:
    gr.Markdown("`f(w0 + x1·w1 + x2·w2 + x3·w3)`: multiply, sum, add the bias, activate.")
    with gr.Row():
        with gr.Column(scale=1):
            inputs = [_slider(f"x{i}", -5, 5, value) for i, value in enumerate((1.0, 2.0, 3.0), start=1)]
            bias = _slider("w0, the bias", -3, 3, 0.5)
            weights = [_slider(f"w{i}", -3, 3, value) for i, value in enumerate((0.8, -0.4, 0.2), start=1)]
            activation = gr.Radio(list(ACTIVATIONS), value="sigmoid", label="activation f")
        with gr.Column(scale=2):
            output, picture = gr.Textbox(label="output"), gr.HTML(elem_classes="drawing")

    def update(*values: Any) -> tuple[str, str]:
        *numbers, activation = values
        x, w0, w = numbers[:3], numbers[3], numbers[4:]
        z = w0 + sum(multiply(x, w))
        return f"f({z:.4g}) = {activate(z, activation):.4f}", figures.neuron(x, w, w0, z, activation)

    _update_on_change(blocks, update, [*inputs, bias, *weights, activation], [output, picture])


def _loss_tab(blocks: gr.Blocks) -> None:
    gr.Markdown("The talk's example: one weight, one bias, one point. J(θ) is the squared error.")
    with gr.Row():
        with gr.Column(scale=1):
            x, y = _slider("x, the input", -5, 5, EXAMPLE[0]), _slider("y, the target", -10, 10, EXAMPLE[1])
            w0, b0 = _slider("w0, the weight", -5, 5, 1.0), _slider("b0, the bias", -5, 5, 3.0)
        with gr.Column(scale=2):
            output, picture = gr.Textbox(label="prediction and loss"), gr.HTML(elem_classes="drawing")

    def computed(x: float, y: float, w0: float, b0: float) -> tuple[str, str]:
        prediction = predict(x, w0, b0)
        loss = mean_squared_error([y], [prediction])
        return f"ŷ = {prediction:.4g}, J(θ) = {loss:.4g}", figures.loss_example(x, y, w0, b0)

    _update_on_change(blocks, computed, [x, y, w0, b0], [output, picture])


def _gradient_descent_tab(blocks: gr.Blocks) -> None:
    gr.Markdown(
        "`θ <- θ - α·∇J` on the loss example's surface over (w0, b0), "
        f"beside a learning rate that fits, {GOOD_LEARNING_RATE}."
    )
    with gr.Row():
        with gr.Column(scale=1):
            rate = gr.Slider(0.001, 0.25, value=0.1, step=0.001, label="learning rate α")
            w0, b0 = _slider("w0 at the start", -5, 5, START[0]), _slider("b0 at the start", -5, 5, START[1])
        with gr.Column(scale=2):
            output, picture = gr.Textbox(label="where it goes"), gr.HTML(elem_classes="drawing")

    def computed(rate: float, w0: float, b0: float) -> tuple[str, str]:
        descents = []
        for alpha in (rate, GOOD_LEARNING_RATE):
            run = gradient_descent(
                lambda at: gradient(at, *EXAMPLE), (w0, b0), alpha, max_steps=STEPS, tolerance=1e-6
            )
            descents.append((alpha, run, [loss_at(point, *EXAMPLE) for point in run.path]))
        _, run, losses = descents[0]
        says = f"{run.outcome}; steps: {len(run.path) - 1}; J(θ) = {round(losses[-1], 9):.4g}"
        x, y = EXAMPLE
        return says, figures.gradient_descent(lambda w0, b0: (y - (x * w0 + b0)) ** 2, descents)

    _update_on_change(blocks, computed, [rate, w0, b0], [output, picture])


def _slider(label: str, low: float, high: float, value: float) -> gr.Slider:
    return gr.Slider(low, high, value=value, step=0.1, label=label)


def _update_on_change(blocks: gr.Blocks, computed: Any, inputs: list[Any], outputs: list[Any]) -> None:
    """Show what is computed from the inputs, at first and whenever one of them moves."""
    for component in inputs:
        component.change(computed, inputs, outputs, show_progress="hidden", trigger_mode="always_last")
    blocks.load(computed, inputs, outputs, show_progress="hidden")
