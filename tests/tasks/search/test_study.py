from pathlib import Path
from typing import Any

import pytest

from tasks.search.study import Study, Trial, check_sampler, parse_space, plan_rungs, promote_trials
from tasks.workspace.errors import RunError

SPACE = parse_space(["train.lr=log:0.001..0.02", "train.weight_decay=0..0.3", "train.optimizer=adam,adamw"])


def score(trial: Trial) -> float:
    return float(trial.values["weight_decay"] - abs(trial.values["lr"] - 0.005))


def open_study(folder: Path, sampler: str = "tpe", seed: int = 0) -> Study:
    return Study(str(folder / "study" / "log"), "name", SPACE, sampler, seed)


def run(study: Study, num_trials: int = 20, batch: int = 4) -> list[Any]:
    while proposed := study.next_batch(batch, num_trials):
        for trial in proposed:
            study.tell(trial, score(trial))
    return [(trial.number, trial.params, trial.value) for trial in study.finished()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return run(open_study(tmp_path_factory.mktemp("whole")))


def test_study_is_the_same_twice_and_another_with_another_seed(tmp_path: Path, whole: list[Any]) -> None:
    assert run(open_study(tmp_path / "a")) == whole
    assert run(open_study(tmp_path / "b", seed=1)) != whole


def test_study_goes_on_after_a_stop_at_any_point(tmp_path: Path, whole: list[Any]) -> None:
    for told in range(5):
        study = open_study(tmp_path / str(told))
        run(study, 8)
        for trial in study.next_batch(4, 20)[:told]:
            study.tell(trial, score(trial))
        del study
        assert run(open_study(tmp_path / str(told))) == whole


def test_study_that_is_stopped_ends_with_fewer_trials_and_goes_on_later(
    tmp_path: Path, whole: list[Any]
) -> None:
    study = open_study(tmp_path)
    run(study, 8)
    study.next_batch(4, 20)
    assert study.next_batch(4, 8) == []
    assert study.best().number < 8
    assert run(study) == whole


def test_study_learns_from_what_it_was_told(whole: list[Any]) -> None:
    values = [value for _, _, value in whole]
    assert max(values[10:]) > max(values[:10])


def test_study_of_a_grid_takes_its_points_in_order(tmp_path: Path) -> None:
    space = parse_space(["train.optimizer=adam,sgd", "train.epochs=1..2"])
    assert check_sampler("grid", space, 100) == 4
    assert check_sampler("tpe", space, 100) == 100
    study = Study(str(tmp_path / "log"), "name", space, "grid", 0)
    seen = []
    while proposed := study.next_batch(3, 4):
        for trial in proposed:
            seen.append((trial.values["optimizer"], trial.values["epochs"]))
            study.tell(trial, 0.5)
    assert seen == [("adam", 1), ("adam", 2), ("sgd", 1), ("sgd", 2)]


def test_best_is_the_first_of_the_highest_and_no_failed_or_pruned_one(tmp_path: Path) -> None:
    study = open_study(tmp_path, "random")
    first, second, third, fourth = study.next_batch(4, 4)
    with pytest.raises(RunError, match="no trial was trained to its end"):
        study.best()
    study.tell(first, None)
    study.tell(second, 0.7)
    study.tell(third, 0.7)
    study.tell(fourth, None, pruned=True)
    assert study.best() == second
    assert [trial.state.name for trial in study.finished()] == ["FAIL", "COMPLETE", "COMPLETE", "PRUNED"]
    assert study.importances() == {}
    assert study.next_batch(4, 4) == []


def test_importances_name_what_decided(tmp_path: Path) -> None:
    study = open_study(tmp_path, "random")
    run(study, 60, 20)
    shares = study.importances()
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=lambda name: shares[name]) == "weight_decay"


def test_study_in_a_database_that_is_not_there_is_one_line() -> None:
    with pytest.raises(RunError, match=r"cannot open the study in sqlite:////nowhere"):
        Study("sqlite:////nowhere/at/all.db", "name", SPACE, "tpe", 0)


def test_study_in_a_database_is_the_same(tmp_path: Path, whole: list[Any]) -> None:
    assert run(Study(f"sqlite:///{tmp_path}/study.db", "name", SPACE, "tpe", 0)) == whole


@pytest.mark.parametrize(("epochs", "rungs"), [(27, [3, 9, 27]), (110, [13, 37, 110]), (2, [1, 2]), (1, [1])])
def test_plan_rungs_ends_with_all_epochs(epochs: int, rungs: list[int]) -> None:
    assert plan_rungs(epochs) == rungs


def test_promote_trials_keeps_the_best_third() -> None:
    assert promote_trials({1: 0.5, 2: 0.7, 3: 0.7, 4: 0.1}) == [2, 3]
    assert promote_trials({5: 0.1}) == [5]
    assert promote_trials({}) == []
