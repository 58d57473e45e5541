"""The command `cifarflow demo` serves a local page that classifies images, with sliders for three toys."""

import os
from pathlib import Path

import click

from flows.cli.project import confident_option, enter_model_project, record_option
from tasks.params import PARAMS, read_params
from tasks.workspace.errors import InputError


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Port of 127.0.0.1 (default: a free one).")
@confident_option
@record_option
def demo(port: int | None, confident: float | None, record: Path | None) -> None:
    """Serve a local web page that classifies images, shows why, and has sliders for the toys.

    Stop with Ctrl-C.

    \b
    Example:
      cifarflow demo
    """
    record = record and record.absolute()
    _, model, model_label = enter_model_project()
    model = Path(os.path.relpath(model))
    print(f"starting the demo with {model} ({model_label}); takes about 5 s", flush=True)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # Gradio reads it when it is imported.
    from flows.cli.demo_server import private_folder

    splits = Path(read_params(PARAMS).paths.splits)
    with private_folder() as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder)  # Gradio reads this as well when it is imported.
        try:
            from flows.cli.demo_page import launch
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise InputError("the demo needs Gradio: pip install 'cifarflow[demo]'") from error

        launch(model, splits, port, record, confident, read_params(PARAMS).project.name)
