import pytest
import torch
from torch import nn

from tasks.training.optimizer import build_lr_scheduler, early_lr_lambda, lr_lambda
from tests.brightness import build_config


def test_cosine_schedule_warms_up_and_decays_to_0() -> None:
    compute_factor = lr_lambda(build_config(epochs=10, lr_schedule="cosine", warmup_epochs=2.0), 10)
    factors = [compute_factor(step) for step in range(101)]
    assert factors[:20] == sorted(factors[:20])
    assert factors[:2] == pytest.approx([1 / 21, 2 / 21])
    assert factors[20] == 1
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert factors[60] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0, abs=1e-12)


def test_linear_schedule_is_a_straight_line_to_0() -> None:
    compute_factor = lr_lambda(build_config(epochs=10, lr_schedule="linear", warmup_epochs=2.0), 10)
    assert [compute_factor(step) for step in (20, 40, 60, 80, 100)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_constant_schedule_stays_at_1_after_the_warmup() -> None:
    compute_factor = lr_lambda(build_config(epochs=3, lr_schedule="constant", warmup_epochs=1.0), 4)
    assert [compute_factor(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


def test_whitening_schedule_decays_to_0_before_the_bias_is_frozen() -> None:
    config = build_config(network="airbench94", whiten_bias_epochs=2)
    compute_factor = early_lr_lambda(config, 4)
    assert [compute_factor(step) for step in (0, 4, 6, 7, 8, 20)] == pytest.approx(
        [1, 0.5, 0.25, 0.125, 0, 0]
    )


def test_build_lr_scheduler_gives_the_whitening_bias_its_own_schedule() -> None:
    config = build_config(network="airbench94", whiten_bias_epochs=1, lr_schedule="constant")
    weight, bias = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    groups = [{"params": [weight], "lr": 0.1}, {"params": [bias], "lr": 0.2, "early": True}]
    optimizer = torch.optim.SGD(groups)
    scheduler = build_lr_scheduler(optimizer, config, 2)
    lrs = []
    for _ in range(3):
        lrs.append(scheduler.get_last_lr())
        optimizer.step()
        scheduler.step()
    assert lrs == [pytest.approx([0.1, 0.2]), pytest.approx([0.1, 0.1]), pytest.approx([0.1, 0])]
