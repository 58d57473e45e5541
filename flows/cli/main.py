"""The command line: `cifarflow`.

Each command imports what it needs when it is called: a prediction must not wait for PyTorch, nor help for
Prefect.
"""

import contextlib
import os
import sys
import tomllib
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

import click
from click_didyoumean import DYMGroup

from flows.cli import flow_commands, local_commands, training_commands
from flows.run.memory import LACKS, describe_lack_of_memory
from flows.server.proxies import exclude_loopback_from_proxies
from tasks.processes import interrupt_on_termination, normalize_environment
from tasks.streams import discard_standard_output, flush_standard_output, repair_standard_streams
from tasks.workspace.code import ROOT
from tasks.workspace.errors import InputError, RunError, describe_os_error, describe_syntax_error


def _print_version(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        file = ROOT / "pyproject.toml"
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        version = tomllib.loads(text).get("project", {}).get("version") or metadata.version("cifarflow")
        click.echo(f"cifarflow {version} from {ROOT}")
        context.exit()


@click.group(cls=DYMGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
      cifarflow run                 the pipeline; `--sample` for half a minute on generated images
      cifarflow toys neuron         the talk's examples, from one neuron on
      cifarflow predict cat.jpg     classify an image
      cifarflow serve               the deployments, and retraining every week
      cifarflow doctor              check the setup
    """
    if directory is not None:
        os.chdir(directory)


for command in (*flow_commands.COMMANDS, *training_commands.COMMANDS, *local_commands.COMMANDS):
    cli.add_command(command)


def main() -> None:
    closed = repair_standard_streams()
    sys.exit(run_command(sys.argv[1:], closed))


def run_command(arguments: list[str], closed_streams: Collection[str] = ()) -> int:
    """0 = success, 1 = run failed, 2 = invalid usage, 130 = interrupted."""
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
    except (
        click.ClickException,
        click.Abort,
        RunError,
        OSError,
        SyntaxError,
        KeyboardInterrupt,
        *LACKS,
    ) as error:
        lack = describe_lack_of_memory(error)
        if lack is None and isinstance(error, LACKS) and not isinstance(error, click.Abort):
            raise  # an Abort is a RuntimeError, too
        code, message = _describe(RunError(lack) if lack else error)
        if message:
            with contextlib.suppress(OSError):  # the terminal may be gone
                print(message, file=sys.stderr)
    finally:
        os.chdir(started_in)
    return code


def _describe(error: BaseException) -> tuple[int, str]:  # noqa: PLR0911 - one per kind of error
    """Exit code and message of what ended a command."""
    match error:
        case click.exceptions.NoArgsIsHelpError():
            return InputError.exit_code, error.format_message()
        case click.ClickException():
            return InputError.exit_code, f"cifarflow: {' '.join(error.format_message().split())} (see --help)"
        case RunError():
            return error.exit_code, f"cifarflow: {error}"
        case BrokenPipeError():  # whoever read the output has enough
            discard_standard_output()
            return RunError.exit_code, ""
        case OSError():
            discard_standard_output()
            reason = describe_os_error(error, unnamed="standard output or another file")
            return RunError.exit_code, f"cifarflow: {reason}"
        case SyntaxError():
            return RunError.exit_code, f"cifarflow: {describe_syntax_error(error)}"
    return 130, "cifarflow: interrupted"
