import pytest

from tasks.params import read_params
from tasks.registry.ledger import LedgerEntry
from tasks.registry.sensitivity import describe_sensitivity, measure_discordance
from tests.shipped_params import PARAMS_FILE

CONFIG = read_params(PARAMS_FILE).compare


def make_entry(**evidence: int) -> LedgerEntry:
    return LedgerEntry("rejected", "no gain", "a" * 32, 1, "owl", "id", {}, evidence)


def test_measure_discordance_is_that_of_the_last_comparison() -> None:
    compared = make_entry(discordant_challenger=310, discordant_champion=250, val_images=5000)
    assert measure_discordance([make_entry(), compared, make_entry()]) == pytest.approx(0.112)
    assert measure_discordance([make_entry(val_images=5000)]) is None


def test_describe_sensitivity_of_cifar_10_says_what_it_finds() -> None:
    is_enough, text = describe_sensitivity(5000, CONFIG, 0.112)
    assert is_enough
    assert text == (
        "on 5,000 validation images, of which two models differ on 11%, weekly retrainings find gains of "
        "1.5 points in half of the cases and 2.1 in nine of ten; to find 1.0 points in half of the cases "
        "takes 11,241"
    )


def test_describe_sensitivity_warns_a_small_project_on_its_first_day() -> None:
    is_enough, text = describe_sensitivity(100, CONFIG)
    assert not is_enough
    assert "differ on 26% (a guess), weekly retrainings find gains of 16" in text
    is_enough, text = describe_sensitivity(8, CONFIG)
    assert not is_enough
    assert "find no gain" in text
