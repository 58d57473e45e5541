"""The command line: `cifarflow`.

Each command imports what it needs when it is called: a prediction must not wait for PyTorch, nor help for
Prefect.
"""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import click
import typer

from tasks.errors import InputError, RunError

app = typer.Typer(
    help="CIFAR-10 from download to a benchmarked ONNX model, and from one neuron to a network.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Change a parameter, in params.yaml; repeatable."
    ),
]


@app.command()
def run(
    assignments: Assignments = None,
    force: Annotated[bool, typer.Option("--force", help="Run every stage, up to date or not.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for another run to end, instead of failing.")
    ] = False,
    sample: Annotated[
        bool, typer.Option("--sample", help="Run on a small generated sample, in the folder sample/.")
    ] = False,
    or_sample: Annotated[
        bool, typer.Option("--or-sample", help="Run on the sample where CIFAR-10 cannot be had.")
    ] = False,
) -> int:
    """Run the pipeline as a Prefect flow; what is up to date is not run again."""
    from tasks.params import parse_overrides, read_params

    overrides = parse_overrides(assignments) if assignments else None
    read_params(Path("params.yaml"))
    print("starting Prefect", flush=True)
    from tasks.download import DataUnavailableError

    from flows.pipeline import pipeline

    options: dict[str, Any] = {"overrides": overrides, "force": force, "wait": wait}
    if not sample:
        retries = {"download_retries": 0} if or_sample else {}
        error = _error_of(pipeline(**options, **retries, return_state=True))
        if error is None:
            return 0
        if not (or_sample and isinstance(error, DataUnavailableError)):
            raise error
        print(
            f"CIFAR-10 cannot be had:\n{error}\nRunning on a generated sample instead, in sample/.",
            file=sys.stderr,
        )

    from flows.sample import prepared

    error = _error_of(pipeline(**options, workspace=prepared(Path()), return_state=True))
    if error is not None:
        raise error
    print("These are results on a generated sample, not on CIFAR-10. They lie in sample/reports/.")
    return 0


def _error_of(state: Any) -> BaseException | None:
    """Why a flow run failed; None if it did not."""
    return None if state.is_completed() else state.result(raise_on_failure=False)


def main() -> None:
    sys.exit(_exit_code(sys.argv[1:]))


def _exit_code(arguments: list[str]) -> int:
    """0 = done, 1 = the run failed, 2 = what the user gave was wrong."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return app(arguments, standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return InputError.exit_code
    except click.ClickException as error:
        print(f"cifarflow: {error.format_message()} (cifarflow --help says more)", file=sys.stderr)
        return InputError.exit_code
    except RunError as error:
        print(f"cifarflow: {error}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("cifarflow: interrupted", file=sys.stderr)
        return 130


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    """End as by Ctrl-C, so that whatever is at work can say so and let go."""
    raise KeyboardInterrupt
