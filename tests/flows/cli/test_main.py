import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
import psutil
import pytest

from flows.cli.main import COMMANDS, cli, run_command
from tests.conftest import QUICK, copy_of_project

QUICK_OPTIONS = [argument for override in QUICK for argument in ("--set", override)]
CIFARFLOW = Path(sys.executable).parent / "cifarflow"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy_of_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CIFAR10_URL", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "No such command 'fly'; choose one of run, retrain, rollback, "),
        (["trian"], "No such command 'trian'; did you mean retrain? (see --help)"),
        (["run", "--fast"], "No such option '--fast'"),
        (["promote", "7"], "Missing option '--reason'"),
        (["run", "--set", "train.epoch=5"], "train.epoch is not a parameter; did you mean epochs?"),
        (
            ["run", "--set", "train.epochs=many"],
            "train.epochs should be an integer from 1 to 100000, not 'many'",
        ),
        (["run", "--set", "epochs=5"], "expected section.key=value"),
        (["run", "--set", "dataset=CIFAR-100"], "edit params.yaml instead"),
    ],
)
def test_run_command_invalid_usage_prints_one_line_and_exits_2(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = Path("params.yaml").read_bytes()
    assert run_command(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert Path("params.yaml").read_bytes() == before


def test_help_imports_no_heavy_package() -> None:
    program = (
        "import sys; from flows.cli.main import COMMANDS, run_command as run;"
        "[run(arguments) for arguments in [['--help'], *([name, '--help'] for name in sys.argv[1:])]];"
        "print(*sys.modules)"
    )
    quick = [name for name in COMMANDS if name != "doctor"]
    command = [sys.executable, "-c", program, *quick]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"torch", "prefect", "dvc", "wandb", "matplotlib"} & set(done.stdout.splitlines()[-1].split())


def test_help_shows_each_summary_whole_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run_command(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, summary in COMMANDS.items():
        assert f"  {name:<14}{summary}" in lines


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_module_of_its_name(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert command.callback is not None
    assert command.callback.__module__ == f"flows.cli.{name.replace('-', '_')}"


def start_process(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [CIFARFLOW, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
    )


@pytest.mark.server
def test_run_without_data_falls_back_to_the_sample_only_if_asked(project: Path) -> None:
    """No source can be reached: `run` fails with the reasons, `--sample-fallback` goes on with the sample."""
    params = Path("params.yaml")
    lines = [line for line in params.read_text().splitlines() if not line.startswith("    - http")]
    params.write_text("\n".join(lines).replace("sources:", "sources: [nowhere.tar] #") + "\n")
    subprocess.run(["dvc", "init", "--quiet", "--no-scm"], check=True)

    done = subprocess.run(
        [CIFARFLOW, "run", "--sample-fallback", *QUICK_OPTIONS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "nowhere.tar: not a file\nRunning on a generated sample instead, in sample/." in done.stderr
    assert "| split     | Finished in state Completed('never run before')" in done.stderr
    assert "temporary server" not in done.stderr
    assert (done.stdout + done.stderr).count("nowhere.tar: not a file") == 2, "by the task and at the end"
    assert "\x1b" not in done.stdout + done.stderr
    last, following = done.stdout.splitlines()[-2:]
    assert last.startswith("These results are for the generated sample, not CIFAR-10.")
    assert following.startswith("Next: open sample/reports/index.html")
    assert '"dataset": "sample"' in Path("sample/reports/metrics.json").read_text()
    for untouched in ("data", "artifacts", "reports", "dvc.lock"):
        assert not Path(untouched).exists()


def wait_for_output(run: "subprocess.Popen[str]", text: str) -> None:
    assert run.stdout is not None
    assert any(text in line for line in run.stdout)


@pytest.mark.server
@pytest.mark.distributed
def test_run_in_progress_rejects_a_second_and_a_kill_leaves_no_lock(project: Path) -> None:
    first = start_process("run", "--sample", "--set", "train.epochs=10000")
    wait_for_output(first, "epoch 1/10000")
    second = subprocess.run([CIFARFLOW, "run", "--sample"], capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"cifarflow: process {first.pid} (cifarflow) is running in this directory" in second.stderr

    server = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGKILL)
    for orphan in server:  # Prefect's temporary server does not notice that its parent was killed
        orphan.kill()
    first.communicate()
    third = subprocess.run(
        [CIFARFLOW, "run", "--sample", *QUICK_OPTIONS], capture_output=True, text=True, check=False
    )
    assert third.returncode == 0, third.stdout + third.stderr


@pytest.mark.server
def test_run_terminated_exits_at_once_with_130(project: Path) -> None:
    run = start_process("run", "--sample", "--set", "train.epochs=10000")
    wait_for_output(run, "epoch 2/10000")
    run.send_signal(signal.SIGTERM)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "cifarflow: interrupted" in output.splitlines()
    assert "Traceback" not in output


@pytest.mark.server
def test_run_on_a_terminal_shows_a_status_without_color_under_no_color(project: Path) -> None:
    command = shlex.join([str(CIFARFLOW), "run", "--sample", *QUICK_OPTIONS])
    shown = subprocess.run(
        ["script", "--quiet", "--return", "--command", command, "/dev/null"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TERM": "xterm-256color", "NO_COLOR": "1"},
    ).stdout
    assert "starting Prefect" in shown
    for stage in ("split", "train", "evaluate", "export", "quantize", "benchmark", "report"):
        assert any(f"{spinner} {stage}" in shown for spinner in "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
    assert "\x1b[3" not in shown  # no foreground color
