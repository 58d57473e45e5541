from typing import Any

import pytest

from tasks.overrides import recipe_defaults
from tasks.registry.selection import count_candidates, find_selection
from tests.brightness import build_config

HASH = "a" * 64
TRAIN = build_config(lr=0.02).model_dump()
SEARCHED: dict[str, Any] = {"train": TRAIN, "seed": 0, "selection": {"candidates": 32, "val_sha256": HASH}}
SWEEP: dict[str, Any] = {
    "train": {key: value for key, value in TRAIN.items() if key != "seed"},
    "seeds": [{"seed": seed, "val_accuracy": 0.6 + seed / 100} for seed in range(5)],
}


def test_model_of_a_search_carries_its_candidates_on_these_images_only() -> None:
    found = find_selection(SEARCHED, HASH)
    assert found is not None
    assert (found["candidates"], found["val_sha256"]) == (32, HASH)
    assert find_selection(SEARCHED | {"train": TRAIN | {"seed": 9, "num_threads": 8}}, HASH) == found
    assert find_selection(SEARCHED | {"train": TRAIN | {"lr": 0.03}}, HASH) != found
    assert find_selection(SEARCHED, "b" * 64) is None
    by_hand = {**SEARCHED, "selection": {"candidates": 10, "val_sha256": ""}}
    assert (find_selection(by_hand, HASH) or {})["candidates"] == 10


def test_model_of_an_earlier_version_has_no_selection() -> None:
    assert find_selection({}, HASH) is None
    assert find_selection({"train": TRAIN, "seed": 0}, HASH) is None


@pytest.mark.parametrize(
    ("changes", "candidates"),
    [
        ({"seed": 4}, 37),
        ({"seed": 3}, 32),
        ({"seed": 4, "selection": {}}, 5),
        ({"seed": 3, "selection": {}}, None),
    ],
)
def test_best_seed_of_a_sweep_is_one_of_its_seeds(changes: dict[str, Any], candidates: int | None) -> None:
    found = find_selection({**SEARCHED, **changes}, HASH, SWEEP)
    assert (found or {}).get("candidates") == candidates


def test_sweep_of_another_recipe_does_not_count() -> None:
    other = {**SWEEP, "train": SWEEP["train"] | {"lr": 0.5}}
    assert find_selection({"train": TRAIN, "seed": 4}, HASH, other) is None


def test_searches_on_the_same_images_add_up() -> None:
    first = count_candidates(build_config(), 32, HASH)
    assert first == {"candidates": 32, "candidates_val_sha256": HASH}
    assert count_candidates(build_config(**first), 20, HASH)["candidates"] == 51
    assert count_candidates(build_config(**first), 20, "b" * 64)["candidates"] == 20
    assert first.keys() <= recipe_defaults().keys(), "another recipe takes them back"
    assert not first.keys() & build_config(**first).model_dump().keys(), "they change no training"
