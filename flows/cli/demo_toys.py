"""The demo's tab of all toys: choose one in a list, change its parameters in a form, see what it shows."""

import inspect
import json
from typing import Any, Literal, get_args, get_origin, get_type_hints

import gradio as gr

from flows.toys.base import Presentation, parse_parameters, run_for_display
from flows.toys.catalog import TOYS, load_flow
from tasks.reporting.markdown import escape_markdown
from tasks.workspace.errors import RunError


def build_toys_tab() -> None:
    """Build the list, and below it the chosen toy's form, figure, tables and takeaways."""
    gr.Markdown("The talk's examples, from one neuron on. `cifarflow toys` runs them on the terminal.")
    choices = [(f"{number}. {name}: {text}", name) for number, (name, text) in enumerate(TOYS.items(), 1)]
    choice = gr.Dropdown(choices, value=choices[0][1], label="toy")

    @gr.render(inputs=choice)  # type: ignore[untyped-decorator]
    def show_toy(name: str) -> None:
        toy = load_flow(name)
        parameters = inspect.signature(toy.fn).parameters
        hints = get_type_hints(toy.fn)
        shown = run_for_display(toy, {})
        with gr.Row():
            with gr.Column(scale=1):
                fields = [_build_field(key, each.default, hints[key]) for key, each in parameters.items()]
                button = gr.Button("Run", variant="primary")
            with gr.Column(scale=2):
                figure = gr.HTML(shown.svg, elem_classes="figure")
                text = gr.Markdown(_describe(shown))

        def run(*values: Any) -> tuple[str, str]:
            texts = (_write_value(hints[key], value) for key, value in zip(parameters, values, strict=True))
            try:
                assignments = [f"{key}={value}" for key, value in zip(parameters, texts, strict=True)]
                result = run_for_display(toy, parse_parameters(toy, assignments))
            except RunError as error:
                raise gr.Error(str(error)) from error
            return result.svg, _describe(result)

        button.click(run, fields, [figure, text])


def _build_field(key: str, default: Any, hint: Any) -> gr.Dropdown | gr.Textbox:
    if get_origin(hint) is Literal:
        return gr.Dropdown(list(get_args(hint)), value=default, label=key, interactive=True)
    is_list = isinstance(default, list | tuple)
    return gr.Textbox(json.dumps(default) if is_list else str(default), label=key, interactive=True)


def _write_value(hint: Any, value: str) -> str:
    """Write the value of a field as YAML: a text in quotes, a number or a list as it is."""
    return json.dumps(value) if hint is str or get_origin(hint) is Literal else value


def _describe(shown: Presentation) -> str:
    takeaways = "\n".join(f"- {escape_markdown(line)}" for line in shown.takeaways)
    return "\n\n".join([*(table.as_markdown() for table in shown.tables), takeaways])
