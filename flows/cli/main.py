"""The command line: `cifarflow`.

Each command imports what it needs when it is called: a prediction must not wait for PyTorch, nor help for
Prefect.
"""

import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import click
from click_didyoumean import DYMGroup

from flows.cli import flow_commands, local_commands
from tasks.workspace.errors import InputError, RunError


@click.group(cls=DYMGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "-C",
    "directory",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Run as if started in DIR.",
)
@click.version_option(version("cifarflow"), message="cifarflow %(version)s")
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


for command in (*flow_commands.COMMANDS, *local_commands.COMMANDS):
    cli.add_command(command)


def main() -> None:
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """0 = success, 1 = run failed, 2 = invalid usage, 130 = interrupted."""
    signal.signal(signal.SIGTERM, _sigterm_to_keyboard_interrupt)
    started_in = Path.cwd()
    try:
        code = cli(arguments, prog_name="cifarflow", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return InputError.exit_code
    except click.ClickException as error:
        print(f"cifarflow: {' '.join(error.format_message().split())} (see --help)", file=sys.stderr)
        return InputError.exit_code
    except RunError as error:
        print(f"cifarflow: {error}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("cifarflow: interrupted", file=sys.stderr)
        return 130
    finally:
        os.chdir(started_in)
    return int(code or 0)


def _sigterm_to_keyboard_interrupt(_signal: int, _frame: FrameType | None) -> None:
    """End as by Ctrl-C, so that whatever is running can say so and release its locks."""
    raise KeyboardInterrupt
