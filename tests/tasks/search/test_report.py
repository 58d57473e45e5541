from pathlib import Path

import pytest

from tasks.overrides import read_recipe, recipe_defaults
from tasks.search.report import check_overwrite, result_markdown, save_result, write_recipe
from tasks.search.study import Study, parse_space
from tasks.workspace.errors import InputError
from tasks.workspace.files import read_json
from tests.brightness import build_config
from tests.conftest import ROOT

DESCRIPTION = {"dataset": "sample", "space": ["train.lr=log:0.001..0.1"], "sampler": "random", "batch": 4}
DESCRIPTION |= {"prune": True}
WINNER = {"val_accuracy": 0.8, "test_accuracy": 0.7}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Three trials were trained, one failed."""
    space = parse_space(["train.lr=log:0.001..0.1", "train.optimizer=adam,adamw"])
    study = Study(str(tmp_path / "log"), "name", space, "random", 0)
    for trial, accuracy in zip(study.next_batch(4, 4), (0.5, 0.8, None, 0.6), strict=True):
        study.tell(trial, accuracy)
    return study


def test_save_result_writes_every_trial_a_picture_and_a_page(tmp_path: Path, study: Study) -> None:
    result = save_result(tmp_path / "search.json", study, study.best(), WINNER, DESCRIPTION)
    assert read_json(tmp_path / "search.json") == result
    page = (tmp_path / "search.html").read_text(encoding="utf-8")
    assert "On test, measured once: <b>70.00" in page
    assert page.count("<figure>") == 2
    assert (result["best"], result["dataset"], result["test_accuracy"]) == (1, "sample", 0.7)
    assert [trial["val_accuracy"] for trial in result["trials"]] == [0.5, 0.8, None, 0.6]
    assert [trial["state"] for trial in result["trials"]] == ["complete", "complete", "fail", "complete"]
    picture = (tmp_path / "search.svg").read_text(encoding="utf-8")
    for label in ("trial", "lr", "optimizer", "validation"):
        assert f">{label}<" in picture


def test_result_markdown_lists_the_best_first(tmp_path: Path, study: Study) -> None:
    result = save_result(tmp_path / "search.json", study, study.best(), WINNER, DESCRIPTION)
    lines = result_markdown(result).splitlines()
    assert lines[0] == "# 4 trials, best on validation: 80.00%"
    assert "Test accuracy of trial 1, measured once: **70.00%**" in lines
    assert [line.split(" | ")[0] for line in lines if line.startswith(("| 0", "| 1", "| 2", "| 3"))] == [
        "| 1",
        "| 3",
        "| 0",
    ]


def test_write_recipe_holds_what_differs_and_reads_back(tmp_path: Path) -> None:
    config = build_config(lr=0.02, optimizer="adamw", freeze=["conv1"], epochs=7)
    write_recipe(tmp_path / "found.yaml", dict(config), WINNER)
    recipe = read_recipe("found", tmp_path).model_dump(exclude_none=True)["train"]
    given = {key: value for key, value in config if key in recipe}
    assert recipe == given
    text = (tmp_path / "found.yaml").read_text(encoding="utf-8")
    assert text.splitlines()[0] == "# Found by cifarflow search: 80.00% on validation, 70.00% on test."
    assert "momentum" not in text
    assert recipe.keys() == recipe_defaults().keys()


def test_check_overwrite_protects_recipes_by_hand(tmp_path: Path) -> None:
    check_overwrite(tmp_path / "new.yaml")
    write_recipe(tmp_path / "found.yaml", dict(build_config()), WINNER)
    check_overwrite(tmp_path / "found.yaml")
    with pytest.raises(InputError, match="was not written by a search"):
        check_overwrite(ROOT / "recipes" / "net76.yaml")
