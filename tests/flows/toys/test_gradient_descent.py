from pathlib import Path

import pytest

from flows.toys.gradient_descent import gradient_descent


def test_gradient_descent_with_only_too_large_learning_rates_saves_its_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcomes = gradient_descent.fn(lr_too_small=0.25, lr_good=0.3, lr_too_large=0.35)
    assert outcomes == {0.25: "diverged", 0.3: "diverged", 0.35: "diverged"}
    assert "α = 0.3: diverged" in Path("reports/toys/gradient_descent.svg").read_text(encoding="utf-8")
