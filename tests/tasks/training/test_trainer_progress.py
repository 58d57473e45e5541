import os
import re
import sys
import termios
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tasks.training.trainer import print_estimate, show_progress

BATCHES: Sequence[Tensor] = torch.arange(130).split(2)


def test_show_progress_draws_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    controller, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    with os.fdopen(controller, "rb", buffering=0) as screen, os.fdopen(terminal, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        assert list(show_progress(BATCHES, len(BATCHES), 1, 60, None)) == list(BATCHES)
        stderr.flush()
        output = screen.read(4096).decode(errors="replace")
    assert "epoch 1/60:" in output
    assert "batches/s" in output


def test_show_progress_without_a_terminal_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(show_progress(BATCHES, len(BATCHES), 1, 60, None)) == list(BATCHES)
    assert capsys.readouterr() == ("", "")


def test_show_progress_on_a_terminal_leaves_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[dict[str, object]] = []

    def record(batches: Sequence[Tensor], *_: object, **given: object) -> Sequence[Tensor]:
        options.append(given)
        return batches

    monkeypatch.setattr("tasks.training.trainer.tqdm", record)
    assert list(show_progress(BATCHES, len(BATCHES), 1, 60, None)) == list(BATCHES)
    assert [given["leave"] for given in options] == [False]


def test_show_progress_calls_back_with_the_fraction_of_all_epochs() -> None:
    reports: list[tuple[float, str]] = []
    assert list(show_progress(BATCHES, len(BATCHES), 2, 4, lambda *report: reports.append(report))) == list(
        BATCHES
    )
    fractions = [0.25, pytest.approx((1 + 50 / 65) / 4), 0.5]
    assert reports == list(zip(fractions, ["epoch 2/4, 0%", "epoch 2/4, 77%", "epoch 2/4"], strict=True))


def test_print_estimate_is_one_line_for_a_long_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps of 2 s, after a slow first one, on a clock that only the steps move."""
    now = 0.0
    monkeypatch.setattr("tasks.training.trainer.time.perf_counter", lambda: now)
    for step, _ in enumerate(print_estimate(BATCHES, 3600, "9 epochs of 400 steps")):
        now += 100.0 if step in {0, 4} else [3.0, 2.0, 1.0][step - 1] if step < 4 else 2.0
    assert capsys.readouterr().out == "estimated training time: 2.0 hours (9 epochs of 400 steps of 2.00 s)\n"


def test_print_estimate_begins_above_ten_minutes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("tasks.training.trainer.time.perf_counter", lambda: now)
    for num_steps, is_long in ((300, False), (301, True)):
        for _ in print_estimate(BATCHES, num_steps, "steps"):
            now += 2.0
        assert bool(capsys.readouterr().out) == is_long


def test_print_estimate_is_silent_for_a_short_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(print_estimate(BATCHES, 65, "1 epochs of 65 steps")) == list(BATCHES)
    assert not capsys.readouterr().out


def test_print_estimate_names_epochs_and_steps_in_a_training(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    from tasks.train import train
    from tests.brightness import build_config, save_brightness_splits

    folder = tmp_path_factory.mktemp("train")
    splits = save_brightness_splits(folder / "splits")

    def run_train() -> list[str]:
        train(splits, folder / "weights", folder / "history", build_config())
        return capsys.readouterr().out.splitlines()

    assert "estimated" not in "".join(run_train())
    weights = (folder / "weights").read_bytes()
    monkeypatch.setattr("tasks.training.trainer.ESTIMATE_THRESHOLD_S", 0.0)
    lines = run_train()
    assert re.fullmatch(
        r"estimated training time: 0\.0 hours \(3 epochs of 13 steps of 0\.\d\d s\)", lines[0]
    )
    assert len([line for line in lines if "estimated" in line]) == 1
    assert (folder / "weights").read_bytes() == weights
