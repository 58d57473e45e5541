"""The command line `cifarflow`.

Each command has a module of its name, which is imported when the command is called: a prediction must not
wait for PyTorch, nor help for Prefect.
"""

import contextlib
import os
import sys
import tomllib
from collections.abc import Collection
from importlib import import_module, metadata
from pathlib import Path

import click

from flows.run.memory import describe_lack_of_memory
from flows.server.proxies import exclude_loopback_from_proxies
from tasks.processes import interrupt_on_termination, normalize_environment
from tasks.streams import discard_standard_output, flush_standard_output, repair_standard_streams
from tasks.workspace.code import ROOT
from tasks.workspace.errors import InputError, RunError, describe_os_error, describe_syntax_error, suggest

COMMANDS = {
    "run": "Run the pipeline; stages that are up to date are skipped.",
    "retrain": "Train on new images; promote the model if it is better.",
    "rollback": "Make an earlier champion the champion again.",
    "promote": "Promote a model that was rejected or rolled back.",
    "reproduce": "Make a decision's model again, and compare it.",
    "sweep": "Train with several seeds: mean and standard deviation.",
    "search": "Search hyperparameters; write the best as a recipe.",
    "toys": "Run the talk's examples, from one neuron on.",
    "learn": "Check your answers to the exercises of the course.",
    "predict": "Classify images with the champion or the exported model.",
    "demo": "Serve a local page that classifies images and shows why.",
    "check-labels": "List the labels in incoming/ that the model doubts.",
    "drift": "Test whether images are still like the training images.",
    "serve": "Serve the deployments, and retrain every week.",
    "server": "Show or stop the local Prefect server, or print its address.",
    "new": "Make a project that learns classes of your own images.",
    "upgrade": "Bring a later version of the code into your project.",
    "status": "Show the state of the project, and what is overdue.",
    "prune": "Remove what no decision or branch needs any more.",
    "doctor": "Check the setup, and say how to fix what is wrong.",
}
"""The commands in the order of the help, each with a summary that a terminal of 80 columns shows whole."""


class LazyGroup(click.Group):
    """A group whose commands are imported one by one: `check-labels` is `check_labels` in its module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"flows.cli.{name}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.UsageError(f"No such command '{args[0]}'; {suggest(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's interface
        """Write the summaries, for which no command is imported."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_version(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        file = ROOT / "pyproject.toml"
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        version = tomllib.loads(text).get("project", {}).get("version") or metadata.version("cifarflow")
        click.echo(f"cifarflow {version} from {ROOT}")
        context.exit()


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "-C",
    "directory",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Run as if started in DIR.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version, and where the code is that runs, and exit.",
)
def cli(directory: Path | None) -> None:
    """CIFAR-10 from download to a benchmarked ONNX model, and from one neuron to a network.

    Works anywhere in the project: from its root or any directory below.

    \b
    Examples:
      cifarflow run               the pipeline; with --sample on generated images
      cifarflow toys neuron       the talk's examples, from one neuron on
      cifarflow predict cat.jpg   classify an image
      cifarflow serve             the deployments, and retraining every week
      cifarflow doctor            check the setup
    """
    if directory is not None:
        os.chdir(directory)


def main() -> None:
    closed = repair_standard_streams()
    sys.exit(run_command(sys.argv[1:], closed))


def run_command(arguments: list[str], closed_streams: Collection[str] = ()) -> int:
    """Run the command and return its exit code.

    0 = success, 1 = the run failed, 2 = the usage was wrong, 130 = interrupted.
    """
    interrupt_on_termination()
    exclude_loopback_from_proxies()
    try:
        started_in = Path.cwd()
    except FileNotFoundError:
        print("cifarflow: the current directory no longer exists; change to another one", file=sys.stderr)
        return InputError.exit_code
    try:
        normalize_environment()
        code = int(cli(arguments, prog_name="cifarflow", standalone_mode=False, obj=closed_streams) or 0)
        flush_standard_output()
    except (Exception, KeyboardInterrupt) as error:
        described = _describe(error)
        if described is None:
            raise
        code, message = described
        if message:
            with contextlib.suppress(OSError):  # The terminal may be gone.
                print(message, file=sys.stderr)
    finally:
        os.chdir(started_in)
    return code


def _describe(error: BaseException) -> tuple[int, str] | None:  # noqa: PLR0911 - one per kind of error
    """Return exit code and message for what ended a command; None for a bug, which gets a traceback."""
    if lack := describe_lack_of_memory(error):
        return RunError.exit_code, f"cifarflow: {lack}"
    match error:
        case click.exceptions.NoArgsIsHelpError():
            return InputError.exit_code, error.format_message()
        case click.ClickException():
            return InputError.exit_code, f"cifarflow: {' '.join(error.format_message().split())} (see --help)"
        case RunError():
            return error.exit_code, f"cifarflow: {error}"
        case BrokenPipeError():  # Whoever read the output wants no more of it.
            discard_standard_output()
            return RunError.exit_code, ""
        case OSError():
            discard_standard_output()
            reason = describe_os_error(error, unnamed="standard output or another file")
            return RunError.exit_code, f"cifarflow: {reason}"
        case SyntaxError():
            return RunError.exit_code, f"cifarflow: {describe_syntax_error(error)}"
        case click.Abort() | KeyboardInterrupt():
            return 130, "cifarflow: interrupted"
    return None
