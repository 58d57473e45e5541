from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tasks.params import read_params
from tasks.search.study import check_space, grid, parse_space, read_space_file
from tasks.workspace.errors import InputError
from tests.shipped_params import PARAMS_FILE

PARAMS = read_params(PARAMS_FILE)


def test_parse_space_gives_a_distribution_by_the_parameters_type() -> None:
    space = parse_space(
        [
            "train.lr=log:0.001..0.02",
            "train.weight_decay=0..1",
            "train.epochs=5..10",
            "train.optimizer=adam,adamw",
            "train.flip=false,alternating",
            "train.batch_size=64,128",
        ]
    )
    assert space == {
        "lr": FloatDistribution(0.001, 0.02, log=True),
        "weight_decay": FloatDistribution(0.0, 1.0),
        "epochs": IntDistribution(5, 10),
        "optimizer": CategoricalDistribution(["adam", "adamw"]),
        "flip": CategoricalDistribution([False, "alternating"]),
        "batch_size": CategoricalDistribution([64, 128]),
    }
    check_space(PARAMS, space)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr=1..2", "expected train.KEY=VALUES"),
        ("split.seed=1..2", "expected train.KEY=VALUES"),
        ("train.lr", "expected train.KEY=VALUES"),
        ("train.rate=1..2", "train has no rate; its parameters are network"),
        ("train.lr=a..b", "a range needs two numbers"),
        ("train.lr=true..2", "a range needs two numbers"),
        ("train.lr=1..nan", "a range needs two numbers"),
        ("train.lr=2..1", "the first smaller"),
        ("train.lr=log:0..1", "greater than 0"),
        ("train.lr=log:1,2", "log: needs a range"),
        ("train.epochs=1.5..3", "train.epochs takes integers"),
        ("train.lr=0..1", "train.lr should be a number greater than 0"),
        ("train.momentum=0..2", "train.momentum should be a number at least 0 and less than 1"),
        ("train.optimizer=adam,x", "train.optimizer should be 'adam'"),
    ],
)
def test_space_that_cannot_be_searched_is_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_space(PARAMS, parse_space([text]))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_parse_space_of_nothing_or_twice_is_an_input_error() -> None:
    with pytest.raises(InputError, match="nothing to search"):
        parse_space([])
    with pytest.raises(InputError, match="given twice"):
        parse_space(["train.lr=1..2", "train.lr=1..3"])


def test_grid_has_all_combinations_in_order() -> None:
    space = parse_space(["train.optimizer=adam,sgd", "train.epochs=1..2"])
    assert grid(space) == [
        {"optimizer": "adam", "epochs": 1},
        {"optimizer": "adam", "epochs": 2},
        {"optimizer": "sgd", "epochs": 1},
        {"optimizer": "sgd", "epochs": 2},
    ]
    with pytest.raises(InputError, match="a grid needs a list of values"):
        grid(parse_space(["train.lr=0.1..0.2"]))


def test_read_space_file_takes_ranges_and_lists(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("train.lr: log:0.001..0.1\ntrain.optimizer: [adam, adamw]\n")
    assert read_space_file(file) == ["train.lr=log:0.001..0.1", "train.optimizer=adam,adamw"]
    file.write_text("- 1\n")
    with pytest.raises(InputError, match="should map"):
        read_space_file(file)
