"""The command line: `cifarflow`.

Each command imports what it needs when it is called: a prediction must not wait for PyTorch, nor help for
Prefect.
"""

import difflib
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import click

from tasks.workspace.errors import InputError, RunError


class SuggestingGroup(click.Group):
    """Commands that suggest the nearest name for one that does not exist."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not near:
                raise
            raise click.UsageError(f"No such command '{args[0]}'. Did you mean {near[0]}?", ctx) from error


@click.group(
    cls=SuggestingGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
def cli() -> None:
    """CIFAR-10 from download to a benchmarked ONNX model, and from one neuron to a network.

    \b
    Examples:
      cifarflow run                 the pipeline; `--sample` for half a minute on generated pictures
      cifarflow toys neuron         the talk's examples, from one neuron on
      cifarflow predict cat.jpg     what a picture shows
      cifarflow serve               the deployments, and retraining every week
      cifarflow doctor              what is set up, and what is not
    """


@cli.command()
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Change a parameter, in params.yaml; repeatable.",
)
@click.option(
    "--recipe",
    metavar="NAME",
    help="Take a recipe's parameters: talk, net76, fast94, strong96, or a YAML file. --set goes beyond.",
)
@click.option("--force", is_flag=True, help="Run every stage, up to date or not.")
@click.option("--wait", is_flag=True, help="Wait for another run to end, instead of failing.")
@click.option("--sample", is_flag=True, help="Run on a small generated sample, in the folder sample/.")
@click.option("--sample-fallback", is_flag=True, help="Run on the sample where CIFAR-10 cannot be had.")
def run(
    set_params: tuple[str, ...],
    *,
    recipe: str | None,
    force: bool,
    wait: bool,
    sample: bool,
    sample_fallback: bool,
) -> None:
    """Run the pipeline as a Prefect flow. What is up to date is not run again.

    \b
    Examples:
      cifarflow run
      cifarflow run --set train.epochs=5 --set train.lr=0.0005
      cifarflow run --recipe net76
      cifarflow run --sample
    """
    from tasks.params import read_params

    overrides = _load_overrides(set_params, recipe)
    params = read_params(Path("params.yaml"))
    options: dict[str, Any] = {"overrides": overrides, "force": force, "wait": wait}
    if not sample:
        retries = {"download_retries": 0} if sample_fallback else {}
        error = _run_pipeline(**options, **retries)
        if error is None:
            _print_next_steps(Path(params.paths.page))
            return
        if not (sample_fallback and _is_data_unavailable(error)):
            raise error
        print(f"{error}\nRunning on a generated sample instead, in sample/.", file=sys.stderr)

    from flows.runtime.sample_workspace import prepare_sample_workspace

    workspace = prepare_sample_workspace(Path(), wait=wait)
    error = _run_pipeline(**options, workspace=workspace)
    if error is not None:
        raise error
    print("These are results on a generated sample, not on CIFAR-10. They lie in sample/reports/.")
    _print_next_steps("sample" / Path(params.paths.page))


def _load_overrides(assignments: tuple[str, ...], recipe: str | None) -> Any:
    from tasks.overrides import merge_overrides, parse_overrides, read_recipe

    overrides = parse_overrides(assignments) if assignments else None
    if recipe is not None:
        overrides = merge_overrides(read_recipe(recipe), overrides or parse_overrides(()))
    return overrides


def _run_pipeline(**options: Any) -> BaseException | None:
    """Run the flow; gives why it failed, if it did."""
    from flows.cli.console import prefect_console

    with prefect_console():
        from flows.pipeline import pipeline

        return _run_flow(pipeline, **options)


def _run_flow(flow: Any, **options: Any) -> BaseException | None:
    state = flow(**options, return_state=True)
    if state.is_completed():
        return None
    error = state.result(raise_on_failure=False)
    assert isinstance(error, BaseException)
    return error


def _is_data_unavailable(error: BaseException) -> bool:
    from tasks.download import DataUnavailableError

    return isinstance(error, DataUnavailableError)


def _print_next_steps(page: Path) -> None:
    print(f"Next: open {page} in a browser, or try a picture: cifarflow predict PICTURE")


@cli.command()
@click.option("--seeds", type=click.IntRange(2, 1000), default=5, help="How many, from train.seed on; 5.")
@click.option("--at-once", type=click.IntRange(1, 64), default=1, help="Trainings at the same time; 1.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Another parameter for this sweep; repeatable.",
)
@click.option("--recipe", metavar="NAME", help="A recipe's parameters for this sweep.")
@click.option("--wait", is_flag=True, help="Wait for another run to end, instead of failing.")
def sweep(*, seeds: int, at_once: int, assignments: tuple[str, ...], recipe: str | None, wait: bool) -> None:
    """Train with several seeds: mean and spread, in reports/sweep.json. Changes nothing else.

    It needs the splits: cifarflow run, or python -m tasks split. One that was killed goes on.

    \b
    Examples:
      cifarflow sweep
      cifarflow sweep --recipe fast94 --seeds 20 --at-once 4
    """
    from flows.cli.console import prefect_console

    overrides = _load_overrides(assignments, recipe)
    with prefect_console():
        from flows.sweep import sweep

        error = _run_flow(sweep, seeds=seeds, at_once=at_once, overrides=overrides, wait=wait)
    if error is not None:
        raise error


@cli.command()
@click.option("--push", is_flag=True, help="Push data, models and the experiment to the remotes.")
@click.option("--commit", is_flag=True, help="Commit ledger, lock and reports to the branch retrain/DATE.")
@click.option("--wait", is_flag=True, help="Wait for another run to end, instead of failing.")
def retrain(*, push: bool, commit: bool, wait: bool) -> None:
    """Take in incoming/CLASS/*, run the pipeline, and promote its model where it is better.

    \b
    Examples:
      cifarflow retrain
      cifarflow retrain --push --commit
    """
    from flows.cli.console import prefect_console

    with prefect_console():
        from flows.retrain import retrain

        error = _run_flow(retrain, push=push, commit=commit, wait=wait)
    if error is not None:
        raise error


@cli.command()
@click.argument("number", required=False, type=click.IntRange(0))
def rollback(entry: int | None) -> None:
    """Put an earlier champion back: the one before this one, or that of line NUMBER of the ledger.

    0 brings the present champion's model back, from DVC's cache or remote.

    \b
    Example:
      cifarflow rollback
    """
    from flows.cli.console import prefect_console

    with prefect_console():
        from flows.retrain import rollback

        error = _run_flow(rollback, number=entry, wait=False)
    if error is not None:
        raise error


@cli.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), default=4200, help="Port of 127.0.0.1 for a server; 4200."
)
def serve(port: int) -> None:
    """Serve the deployments from this folder, with a Prefect server where none runs. Ctrl-C ends it.

    \b
    Example:
      cifarflow serve
    """
    from flows.cli.serve import serve_deployments

    serve_deployments(port)


@cli.command()
@click.argument("name", required=False)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Give a parameter of the toy another value; repeatable.",
)
def toys(name: str | None, assignments: tuple[str, ...]) -> None:
    """Run a toy, the talk's examples as Prefect flows, or all of them. Without a NAME: list them.

    NAME is a toy or `all`. A toy prints its table and saves its picture in reports/toys/.

    \b
    Examples:
      cifarflow toys
      cifarflow toys neuron --set w1=2 --set activation=tanh
      cifarflow toys all
    """
    from flows.toys.catalogue import TOYS, load_flow, validate_name

    if name is None:
        if assignments:
            raise InputError("--set needs the NAME of a toy; cifarflow toys lists them")
        print("\n".join(f"{toy:<18} {shows}" for toy, shows in TOYS.items()))
        print("\nRun one with: cifarflow toys NAME, all of them with: cifarflow toys all")
        return
    chosen = list(TOYS) if name == "all" else [validate_name(name)]
    if name == "all" and assignments:
        raise InputError("--set needs the NAME of one toy, not all")
    from flows.cli.console import prefect_console

    with prefect_console() as show:
        from flows.toys.base import parse_parameters

        for toy in chosen:
            flow = load_flow(toy)
            options = parse_parameters(flow, assignments)
            show(toy)
            error = _run_flow(flow, **options)
            if error is not None:
                raise error


@cli.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON a picture.")
def predict(images: tuple[str, ...], *, as_json: bool) -> None:
    """Say what pictures show: the three likeliest classes of each, by the exported model.

    IMAGE is a file, a folder, a pattern, or - for standard input, in any format and size.

    \b
    Example:
      cifarflow predict cat.jpg holiday/
    """
    from flows.cli.predict import predict
    from tasks.params import read_params
    from tasks.registry.ledger import resolve_serving_model

    model, what = resolve_serving_model(Path(read_params(Path("params.yaml")).paths.onnx_model))
    sys.exit(predict(images, model, what, as_json=as_json))


@cli.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Port of 127.0.0.1; default: a free one.")
def demo(port: int | None) -> None:
    """Serve a page on this machine where pictures are classified and the toys' sliders move.

    \b
    Example:
      cifarflow demo
    """
    from tasks.params import read_params
    from tasks.registry.ledger import resolve_serving_model

    model, what = resolve_serving_model(Path(read_params(Path("params.yaml")).paths.onnx_model))
    print(f"starting the page with {model} ({what}), some 5 s", flush=True)
    from flows.cli.demo import launch

    launch(model, port)


@cli.command()
def doctor() -> None:
    """Say what is set up and what is not, each with the command that mends it.

    \b
    Example:
      cifarflow doctor
    """
    from flows.cli.doctor import doctor

    sys.exit(doctor())


def main() -> None:
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """0 = done, 1 = the run failed, 2 = what the user gave was wrong."""
    signal.signal(signal.SIGTERM, _sigterm_to_keyboard_interrupt)
    try:
        cli(arguments, prog_name="cifarflow", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return InputError.exit_code
    except click.ClickException as error:
        print(f"cifarflow: {error.format_message()} (--help says more)", file=sys.stderr)
        return InputError.exit_code
    except RunError as error:
        print(f"cifarflow: {error}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("cifarflow: interrupted", file=sys.stderr)
        return 130
    return 0


def _sigterm_to_keyboard_interrupt(_signal: int, _frame: FrameType | None) -> None:
    """End as by Ctrl-C, so that whatever is at work can say so and let go."""
    raise KeyboardInterrupt
