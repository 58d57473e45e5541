from typing import Any

import pytest
import torch
from torch import Generator, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from models.step import training_step
from models.toys import training_cycle as cycle
from models.toys.training_cycle import TinyMLP, TrainConfig, noisy_sine, traced_step, train
from tasks import train


def data() -> tuple[torch.Tensor, torch.Tensor]:
    return noisy_sine(20, 0.1, Generator().manual_seed(0))


def test_turn_is_the_one_of_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    assert train.training_step is training_step
    turns: list[Any] = []

    def counted(*arguments: Any) -> Any:
        turns.append(arguments)
        return training_step(*arguments)

    monkeypatch.setattr(cycle, "training_step", counted)
    train(TinyMLP(4, seed=0), F.mse_loss, data(), TrainConfig(0.1, epochs=3, batch_size=5, seed=0))
    assert len(turns) == 3 * 4
    traced_step(TinyMLP(4, seed=0), 0.1, *data())
    assert len(turns) == 13


def test_steps_happen_in_the_talks_order_with_pytorchs_values() -> None:
    x, y = data()
    net = TinyMLP(4, seed=1)
    twin = TinyMLP(4, seed=1)
    events = traced_step(net, 0.1, x, y)
    assert list(dict.fromkeys(event.step for event in events)) == [
        "Input, Target",
        "Forward Pass",
        "Loss Function",
        "Backward Pass",
        "Update",
    ]
    by_step = {event.step: event.value for event in events}
    predictions = twin(x)
    loss = F.mse_loss(predictions, y)
    loss.backward()
    assert by_step["Forward Pass"] == predictions[0].item()
    assert by_step["Loss Function"] == loss.item()
    assert by_step["Backward Pass"] == pytest.approx(twin.output.bias.grad.item())
    updated = twin.output.bias.item() - 0.1 * twin.output.bias.grad.item()
    assert by_step["Update"] == pytest.approx(updated) == pytest.approx(net.output.bias.item())


def test_watching_changes_nothing_and_ends() -> None:
    watched, plain = TinyMLP(4, seed=2), TinyMLP(4, seed=2)
    traced_step(watched, 0.05, *data())
    training_step(plain, F.mse_loss, torch.optim.SGD(plain.parameters(), lr=0.05), *data())
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), plain.parameters(), strict=True))
    assert not watched.output.bias._post_accumulate_grad_hooks


def test_loss_falls_to_that_of_the_noise() -> None:
    losses = train(TinyMLP(16, seed=0), F.mse_loss, data(), TrainConfig(0.02, 200, batch_size=5, seed=0))
    assert len(losses) == 200
    assert losses[0] > 0.3
    assert losses[-1] < 0.03


def test_least_squares_is_found() -> None:
    """A linear network on the same data ends where `torch.linalg.lstsq` does."""
    x, y = data()
    net = nn.Linear(1, 1, dtype=torch.float64)
    train(net, F.mse_loss, (x, y), TrainConfig(0.05, 400, batch_size=20, seed=0))
    expected = torch.linalg.lstsq(torch.cat([x, torch.ones_like(x)], 1), y).solution.flatten()
    assert [net.weight.item(), net.bias.item()] == pytest.approx(expected.tolist(), abs=1e-3)


def test_loss_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="in epoch 1; a smaller learning rate may help"):
        train(TinyMLP(4, seed=0), lambda p, t: F.mse_loss(p, t) / 0, data(), TrainConfig(0.1, 2, 5, 0))
