"""Retraining that asks a person on the terminal: yes, Ctrl-C, no answer, a champion that comes between."""

import dataclasses
import datetime as dt
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from prefect.settings import PREFECT_API_URL

import flows.retrain
from flows.champion.approval import ask
from flows.champion.results_branch import DecisionSettings
from flows.rollback import promote
from flows.versions.dvc_repro import open_repo
from tasks.overrides import parse_overrides, write_overrides
from tasks.registry import ledger
from tasks.registry.ledger import CHAMPION, CHAMPION_DVC_FILE, LedgerEntry
from tasks.registry.ledger_lines import seal_line
from tasks.workspace.files import hash_file
from tests.flows.conftest import IMPROVE, read_artifacts, run_retrain

pytestmark = [pytest.mark.server, pytest.mark.distributed, pytest.mark.usefixtures("prefect_server")]

CIFARFLOW = Path(sys.executable).with_name("cifarflow")


@pytest.fixture
def type_text(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Types on the terminal that is standard input."""
    controller, terminal = os.openpty()
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield lambda text: assert_all_written(controller, text)
    os.close(controller)


def assert_all_written(terminal: int, text: str) -> None:
    assert os.write(terminal, text.encode()) == len(text)


def read_decisions() -> list[str]:
    return [entry.decision for entry in ledger.read_ledger()]


def test_retrain_whose_question_stays_open_is_rejected_after_its_time(
    champion_copy: Path, type_text: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was killed while it asked: the next runs wait, a person may decide, time is limited."""

    def die(question: LedgerEntry, settings: DecisionSettings) -> None:
        raise OSError(9, "killed")

    monkeypatch.setattr(flows.retrain, "ask", die)
    assert run_retrain(*IMPROVE, approve=True).is_failed()
    monkeypatch.setattr(flows.retrain, "ask", ask)
    state = run_retrain()
    assert state.name == "Skipped"
    assert "awaits approval of this model until" in str(state.message)
    assert read_decisions() == ["promoted", "pending_approval"]
    first, second = ledger.LEDGER.read_bytes().splitlines(keepends=True)
    champion = {file: file.read_bytes() for file in (ledger.CHAMPION, CHAMPION_DVC_FILE)}

    assert promote("2", "ada says so", return_state=True).is_completed()
    (*_, entry) = ledger.read_ledger()
    assert entry.decision == "overridden"
    assert entry.reason.startswith("ada says so (version 2 awaited approval")
    assert entry.approval is None

    past = (dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)).isoformat(timespec="seconds")
    question = ledger.read_ledger()[1]
    assert question.approval is not None
    late = dataclasses.replace(question, approval={**question.approval, "deadline": past})
    after = json.loads(second)["after"]
    ledger.LEDGER.write_bytes(first + seal_line(late.as_dict(), after))
    for file, content in champion.items():
        file.write_bytes(content)
    state = run_retrain()
    assert state.name == "Skipped"
    assert "not approved (no answer by " in str(state.message)
    assert read_decisions() == ["promoted", "pending_approval", "rejected"]
    assert len(ledger.look_times(ledger.read_ledger())) == 1


@pytest.mark.parametrize("better", [True, False])
def test_retrain_compares_again_with_a_champion_that_came_before_the_answer(
    better: bool, champion_copy: Path, type_text: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[LedgerEntry] = []

    def ask_late(question: LedgerEntry, settings: DecisionSettings) -> Any:
        if not asked:
            promote_twin(Path("artifacts/model.onnx") if better else CHAMPION)
        asked.append(question)
        return ask(question, settings)

    monkeypatch.setattr(flows.retrain, "ask", ask_late)
    type_text("y\n \nit knows my cat\nada\n" * 2)  # a reason that is empty is asked for again
    state = run_retrain(*IMPROVE, approve=True)
    assert state.is_completed(), state.message
    decisions = read_decisions()
    entries = ledger.read_ledger()
    assert "champion 3 (" in entries[3].reason
    assert ") came before ada approved" in entries[3].reason
    if better:
        assert str(state.message).startswith("rejected: +0.00% on validation is no gain")
        assert decisions == ["promoted", "pending_approval", "promoted", "rejected"]
        assert entries[3].approval is None
        assert len(asked) == 1, "nobody is asked about what the comparison rejects"
    else:
        assert str(state.message).endswith(", approved by ada: it knows my cat")
        assert decisions == ["promoted", "pending_approval", "promoted", "pending_approval", "promoted"]
        assert entries[4].approval == {"approved": True, "person": "ada", "reason": "it knows my cat"}
        assert CHAMPION.read_bytes() == Path("artifacts/model.onnx").read_bytes()
        assert str(read_artifacts(state)["decision"].data).startswith("# Promoted: +")
    assert len(ledger.look_times(entries)) == 2


def promote_twin(model: Path) -> None:
    """Another run promotes a model that predicts the same."""
    twin = onnx.load(model)
    twin.doc_string = "a twin"
    onnx.save(twin, "twin.onnx")
    md5 = hash_file(Path("twin.onnx"), "md5")
    with open_repo() as repo:
        file = Path(repo.cache.local.oid_to_path(md5))
    file.parent.mkdir(exist_ok=True)
    Path("twin.onnx").rename(file)
    champion = ledger.read_ledger()[0]
    ledger.append(
        dataclasses.replace(champion, model_md5=md5, model_bytes=file.stat().st_size, flow_run_id="other")
    )


def test_retrain_approve_without_a_terminal_is_one_line(champion_copy: Path) -> None:
    done = subprocess.run(
        [CIFARFLOW, "retrain", "--approve"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    message = "cifarflow: --approve asks on the terminal, but standard input is not one"
    assert done.stderr.splitlines() == [message]


def take_terminal() -> None:
    """As a shell's; where this suite was started with `&`, SIGINT would be ignored."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_command_retrain_interrupted_at_its_question_rejects(champion_copy: Path) -> None:
    write_overrides(Path("params.yaml"), parse_overrides(IMPROVE))
    controller, terminal = os.openpty()
    with subprocess.Popen(
        [CIFARFLOW, "retrain", "--approve"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=take_terminal,  # noqa: PLW1509 - Ctrl-C becomes SIGINT
        env=os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value())},
    ) as process:
        os.close(terminal)
        shown = b""
        for question, answer in (
            (b"Promote this model?", b"n\n"),
            (b"Why or why not?", b"looks fine\n"),
            (b"Who decides?", b"\x03"),
        ):
            while question not in shown:
                shown += os.read(controller, 10_000)
            os.write(controller, answer)
        killer = threading.Timer(60, process.kill)  # ends the reading below
        killer.start()
        while process.poll() is None:
            try:
                shown += os.read(controller, 10_000)
            except OSError:  # the other end has closed it
                break
    killer.cancel()
    os.close(controller)
    assert process.returncode == 0, shown.decode()
    text = shown.decode()
    assert "| accuracy, val |" in text
    assert "Traceback" not in text
    (*_, entry) = ledger.read_ledger()
    assert entry.decision == "rejected"
    assert entry.approval is not None
    assert not entry.approval["approved"]
    assert entry.approval["reason"] == "interrupted after: no, looks fine"
