"""Commands that run no flow: new, serve, server, predict, check-labels, drift, demo, doctor."""

import os
import shlex
from collections.abc import Collection
from pathlib import Path

import click

from flows.cli.project import enter_project
from tasks.workspace.code import ROOT
from tasks.workspace.errors import InputError, RunError

record_option = click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Append the probabilities to FILE, not the images, for `cifarflow drift FILE`.",
)


@click.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=4200,
    help="Port of a server on 127.0.0.1 (default: 4200).",
)
def serve(port: int) -> None:
    """Serve the deployments from this directory, starting a Prefect server if none is running.

    Stop with Ctrl-C.

    \b
    Example:
      cifarflow serve
    """
    enter_project()
    from flows.cli.serve import serve_deployments

    serve_deployments(port)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--images",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The images: CLASS/* or {train,val,test}/CLASS/*.",
)
@click.option(
    "--image-size",
    type=click.IntRange(8, 1024),
    default=32,
    help="Pixels per side to which they are resized (default: 32).",
)
def new(directory: Path, images: Path, image_size: int) -> None:
    """Make a project in DIR that learns the classes of your own images.

    \b
    Example:
      cifarflow new ../flowers --images ~/Pictures/flowers --image-size 64
    """
    from flows.cli.new_project import create_project

    note = create_project(ROOT, directory.absolute(), images.absolute(), image_size)
    if note:
        print(note)
    print(f"{directory} is ready. Next: cd {directory} && make run")


@click.command()
@click.argument("action", type=click.Choice(["status", "env", "stop"]), default="status")
def server(action: str) -> None:
    """Show or stop the local Prefect server, which commands start and share, or print how to use it.

    `env` prints its address and its password as variables for a shell in which Prefect's own commands are to
    use it. The password is new each time that the server starts; the dashboard asks for it.

    It ends by itself when no command has used it for 15 minutes (CIFARFLOW_SERVER_IDLE_MINUTES). With
    CIFARFLOW_SERVER=temporary, each command has its own instead.

    \b
    Examples:
      cifarflow server
      eval "$(cifarflow server env)"
      cifarflow server stop
    """
    from flows.server.local import find_local_server, stop_local_server

    if action == "stop":
        print("the local server is stopped" if stop_local_server() else "no local server is running")
        return
    running = find_local_server()
    if action == "env":
        if running is None:
            raise RunError("no local server is running; start one with: cifarflow serve")
        print(f"export PREFECT_API_URL={shlex.quote(running.api_url)}")
        print(f"export PREFECT_API_AUTH_STRING={shlex.quote(running.credential)}")
    else:
        print(f"the local server runs at {running.dashboard}" if running else "no local server is running")


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per image.")
@record_option
@click.pass_obj
def predict(
    closed_streams: Collection[str], images: tuple[str, ...], *, as_json: bool, record: Path | None
) -> int:
    """Classify images: print the top 3 classes for each, using the champion or the exported model.

    IMAGE is a file, a directory, a pattern, or - for standard input, in any format and size.

    \b
    Example:
      cifarflow predict cat.jpg holiday/
    """
    from flows.cli.predict import predict as predict_images

    if "stdin" in closed_streams and "-" in images:
        raise InputError("standard input is closed, but - asks to read an image from it")
    if "stdout" in closed_streams:
        raise InputError("standard output is closed, so no class could be printed")
    start, model, model_label = _find_model()
    os.chdir(start)
    return predict_images(
        images, Path(os.path.relpath(model)), model_label, as_json=as_json, record_file=record
    )


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Port of 127.0.0.1 (default: a free one).")
@record_option
def demo(port: int | None, record: Path | None) -> None:
    """Serve a local web page that classifies images, shows why, and has sliders for the toys.

    Stop with Ctrl-C.

    \b
    Example:
      cifarflow demo
    """
    record = record and record.absolute()
    _, model, model_label = _find_model()
    model = Path(os.path.relpath(model))
    print(f"starting the demo with {model} ({model_label}); takes about 5 s", flush=True)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when Gradio is imported
    from flows.cli.demo_server import private_folder
    from tasks.params import read_params

    splits = Path(read_params(Path("params.yaml")).paths.splits)
    with private_folder() as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder)  # read when Gradio is imported, too
        try:
            from flows.cli.demo import launch
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise InputError("the demo needs Gradio: pip install 'cifarflow[demo]'") from error

        launch(model, splits, port, record)


@click.command("check-labels")
def check_labels() -> None:
    """List the labels in incoming/ that the model doubts, and show the images in reports/incoming.html.

    Retraining does this itself, but takes the images in: check first, and move files that are wrong.

    \b
    Example:
      cifarflow check-labels
    """
    enter_project()
    from tasks.incoming.label_check import check_incoming_labels
    from tasks.params import read_params

    check = check_incoming_labels(read_params(Path("params.yaml")))
    for image in check.doubted:
        print(f"'{image['name']}': {image['predicted']} {image['confidence']:.1%}, not {image['actual']}")
    print(check)


@click.command()
@click.argument("source", required=False, type=click.Path(exists=True, path_type=Path))
def drift(source: Path | None) -> None:
    """Test whether images are still like the training images, and show it in reports/drift.html.

    SOURCE is a file that `predict --record` or `demo --record` wrote, or a folder of images, which have
    labels if they are in class directories; by default incoming/. Retraining does this itself.

    \b
    Examples:
      cifarflow drift
      cifarflow drift asked.jsonl
    """
    source = source and source.absolute()
    enter_project()
    from tasks.drift.check import check_drift
    from tasks.params import read_params

    print(check_drift(read_params(Path("params.yaml")), source and Path(os.path.relpath(source))))


@click.command()
def doctor() -> int:
    """Check the setup; for every problem, print the command that fixes it.

    \b
    Example:
      cifarflow doctor
    """
    enter_project()
    from flows.cli.doctor import doctor as check_setup

    return check_setup()


COMMANDS = (new, serve, server, predict, check_labels, drift, demo, doctor)


def _find_model() -> tuple[Path, Path, str]:
    """Enter the project; returns where the user stands, the model that predictions use, and what it is."""
    from tasks.params import read_params
    from tasks.registry.serving_model import resolve_serving_model

    start = enter_project()
    model, model_label = resolve_serving_model(Path(read_params(Path("params.yaml")).paths.onnx_model))
    return start, model.absolute(), model_label
