import os
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.cli.doctor import Check, _champion, check_setup, run_checks
from flows.cli.sample_workspace import prepare_sample_workspace
from flows.run.lock import workspace_lock
from tasks.params import read_params
from tasks.registry.ledger import LEDGER, append
from tests.brightness import save_brightness_splits
from tests.conftest import ROOT, copy_of_project
from tests.flows.git_clones import git
from tests.tasks.registry.test_ledger import make_entry


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project with nothing in it yet but its DVC repository."""
    copy_of_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with Repo.init(no_scm=True):
        pass
    return tmp_path


def test_doctor_in_a_fresh_project_exits_0(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_setup() == 0
    output = capsys.readouterr().out
    assert "data      not downloaded yet; a run downloads it from" in output
    assert "fix: python -m tasks download" in output
    assert output.splitlines()[-1] == "nothing is wrong; next: cifarflow run"


def test_run_checks_gives_each_error_a_fix(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")  # noqa: PYI024 - a stand-in for shutil's
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(free=10_000_000))
    monkeypatch.setattr("sys.version_info", (3, 9, 1, "final", 0))
    Path("requirements.lock").write_text(
        "torch==0.1\nno-such-package==1.0\nonly-there==1 ; sys_platform == 'win32'\n"
    )
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("device: auto", "device: cuda"))
    wrong = {check.subject: check for check in run_checks() if check.status == "error"}
    assert {"Python", "packages", "disk", "device"} <= wrong.keys()
    assert "2 of 2 packages differ from requirements.lock: torch, no-such-package" in wrong["packages"].text
    assert all(check.fix for check in wrong.values())
    assert "dvc gc" not in wrong["disk"].fix, "it would delete the models that rollback and promote need"


def test_doctor_misses_a_compiler(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    (check,) = [check for check in run_checks() if check.subject == "compiler"]
    assert (check.status, check.fix) == ("warning", "apt-get install g++")


def test_doctor_says_what_comparisons_and_drift_tests_can_find(project: Path) -> None:
    assert not {"decisions", "drift"} & {check.subject for check in run_checks()}, "nothing is split yet"
    save_brightness_splits(Path(read_params(Path("params.yaml")).paths.splits), val=300)
    checks = {check.subject: check for check in run_checks()}
    assert (checks["decisions"].status, checks["drift"].status) == ("ok", "ok")
    assert checks["decisions"].text.startswith(
        "on 300 validation images, of which two models differ on 26% (a"
    )
    assert re.fullmatch(r"the smallest shift .*: KS 0\.\d+ in \d+, KS 0\.\d+ in \d+", checks["drift"].text)
    save_brightness_splits(Path(read_params(Path("params.yaml")).paths.splits), val=10)
    checks = {check.subject: check for check in run_checks()}
    assert (checks["decisions"].status, checks["drift"].status) == ("warning", "warning")


def test_doctor_with_altered_data_exits_1(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.chdir(prepare_sample_workspace(Path()))
    file = Path("data/cifar-10-batches-py/test_batch")
    file.chmod(0o644)
    file.write_bytes(b"altered")
    assert check_setup() == 1
    output = capsys.readouterr().out
    assert "test_batch is not the published file" in output
    assert output.splitlines()[-1] == "1 problem would make a run fail"


def test_doctor_with_invalid_params_exits_1_and_checks_what_needs_none(project: Path) -> None:
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("epochs: 24", "epochs: two"))
    append(make_entry("promoted", "a"))
    LEDGER.write_bytes(b"{" + LEDGER.read_bytes() * 2)
    checks = {check.subject: check for check in run_checks()}
    assert checks["params"].status == "error"
    assert "train.epochs should be an integer" in checks["params"].text
    assert not checks["params"].fix, "git checkout would throw the other parameters away"
    assert {"disk", "Git", "DVC", "locks", "Prefect", "ledger"} <= checks.keys()
    assert checks["ledger"].status == "error"
    assert check_setup() == 1


def test_missing_champion_makes_no_run_fail(project: Path) -> None:
    append(make_entry("promoted", "a"))
    (check,) = _champion(read_params(Path("params.yaml")))
    assert (check.subject, check.status) == ("champion", "warning")
    assert check.text.startswith("predictions fail: registry/champion.onnx, champion 1 (")
    assert check.fix == "cifarflow rollback --restore"


def test_doctor_where_all_is_up_to_date_says_so(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.cli.doctor.run_checks", lambda: [Check("stages", "ok", "all up to date")])
    assert check_setup() == 0
    assert "all results are up to date" in capsys.readouterr().out


def test_run_checks_names_the_run_in_progress(project: Path) -> None:
    with workspace_lock():
        (text,) = (check.text for check in run_checks() if check.subject == "locks")
    assert f"process {os.getpid()}" in text


def test_run_checks_says_whether_git_can_record_decisions(
    project: Path, other_uid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")

    def check_git() -> tuple[str, str]:
        (check,) = (check for check in run_checks() if check.subject == "Git")
        return check.status, check.text

    assert check_git() == ("warning", "not a Git repository with commits: decisions name no commit")
    git(project, "init", "--quiet")
    git(
        project,
        "-c",
        "user.name=T",
        "-c",
        "user.email=t@e.org",
        "commit",
        "--quiet",
        "--allow-empty",
        "-m",
        "x",
    )
    assert check_git()[0] == "ok"
    for path in (project, *(project / ".git").rglob("*"), project / ".git"):
        os.chown(path, other_uid, other_uid)
    assert check_git() == ("error", "another user owns the repository")


@pytest.mark.slow
def test_doctor_of_a_user_id_without_a_name_and_a_home(project: Path, other_uid: int) -> None:
    uid = 54321
    for path in (project, *project.rglob("*")):
        os.chown(path, uid, uid)
    become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    see_all = [
        "--inh-caps=+dac_read_search",
        "--ambient-caps=+dac_read_search",
    ]  # the interpreter may be root's
    command = [sys.executable, "-c", "from flows.cli.main import main; main()", "doctor"]
    unset = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [*become, *see_all, *command],
        env=environment | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(project / "prefect")},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1] == "nothing is wrong; next: cifarflow run", done.stdout + done.stderr


def test_doctor_prints_no_secret(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "wandb-secret")
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("CIFAR10_URL", "https://user:url-secret@example.org/x.tar?signature=url-secret")
    Path(".dvc", "config.local").write_text(
        "[core]\n remote = r\n['remote \"r\"']\n url = s3://bucket\n secret_access_key = dvc-secret\n"
    )
    check_setup()
    output = capsys.readouterr().out
    assert "online, a key is set" in output
    assert "secret" not in output


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_run_checks_names_the_last_flow_runs(project: Path) -> None:
    from prefect import flow

    @flow(name="broken")
    def broken() -> None:
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        broken()
    found = {check.subject: check for check in run_checks()}
    assert found["Prefect"].status == "ok"
    assert found["last run"].status in {"ok", "warning"}
    assert found["access"].status == "warning"  # this server asks for no password
    assert "asks for no password" in found["access"].text


def test_run_checks_with_a_dead_server_gives_an_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        (check,) = (check for check in run_checks() if check.subject == "Prefect")
    assert check.status == "error"
    assert check.text.startswith("no Prefect server responds at 127.0.0.1:1 (PREFECT_API_URL); ")


def test_doctor_names_what_is_damaged_in_the_ledger(project: Path) -> None:
    for _ in range(3):
        append(make_entry("rejected", "a"))
    first, second, third = LEDGER.read_bytes().splitlines(keepends=True)
    LEDGER.write_bytes(first + b"#" + second + third[:99])
    params = read_params(Path("params.yaml"))
    texts = [check.text for check in _champion(params) if check.subject == "ledger"]
    assert texts == [
        f"the last line of {LEDGER} is cut short; the next decision moves what is left to {LEDGER}.truncated",
        f"1 damaged or missing lines of {LEDGER} are set aside",
    ]
    LEDGER.write_bytes(b"{" + first + second)
    (check,) = _champion(params)
    assert (check.subject, check.status) == ("ledger", "error")
    assert check.text.startswith(f"{LEDGER}, line 1 is corrupt (")
    assert check.fix.startswith(
        "cp registry/ledger.jsonl registry/ledger.jsonl.damaged && git checkout HEAD --"
    )
