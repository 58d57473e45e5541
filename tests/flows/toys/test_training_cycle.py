import sys
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from flows.toys.training_cycle import TinyMLP, TrainConfig, make_data, trace_step, train
from models.step import training_step


def make_points() -> tuple[torch.Tensor, torch.Tensor]:
    return make_data(20, noise=0.1, seed=0)


def test_each_step_is_the_pipelines_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    import_module("tasks.train")
    pipeline = [module for name, module in sys.modules.items() if name.startswith("tasks.train")]
    assert training_step in [getattr(module, "training_step", None) for module in pipeline]
    calls: list[Any] = []

    def count_call(*arguments: Any) -> Any:
        calls.append(arguments)
        return training_step(*arguments)

    monkeypatch.setattr("flows.toys.training_cycle.training_step", count_call)
    train(TinyMLP(4, seed=0), F.mse_loss, make_points(), TrainConfig(0.1, epochs=3, batch_size=5, seed=0))
    assert len(calls) == 3 * 4
    trace_step(TinyMLP(4, seed=0), 0.1, make_points())
    assert len(calls) == 13


def test_trace_step_events_are_in_the_talks_order_with_pytorchs_values() -> None:
    x, y = make_points()
    net = TinyMLP(4, seed=1)
    twin = TinyMLP(4, seed=1)
    events = trace_step(net, 0.1, (x, y))
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
    assert twin.output.bias.grad is not None
    assert by_step["Forward Pass"] == predictions[0].item()
    assert by_step["Loss Function"] == loss.item()
    assert by_step["Backward Pass"] == pytest.approx(twin.output.bias.grad.item())
    updated = twin.output.bias.item() - 0.1 * twin.output.bias.grad.item()
    assert by_step["Update"] == pytest.approx(updated) == pytest.approx(net.output.bias.item())


def test_trace_step_changes_nothing_and_removes_its_hooks() -> None:
    traced, plain = TinyMLP(4, seed=2), TinyMLP(4, seed=2)
    trace_step(traced, 0.05, make_points())
    training_step(plain, F.mse_loss, torch.optim.SGD(plain.parameters(), lr=0.05), *make_points())
    assert all(torch.equal(a, b) for a, b in zip(traced.parameters(), plain.parameters(), strict=True))
    assert not traced.output.bias._post_accumulate_grad_hooks


def test_train_loss_falls_to_that_of_the_noise() -> None:
    losses = train(
        TinyMLP(16, seed=0), F.mse_loss, make_points(), TrainConfig(0.02, 200, batch_size=5, seed=0)
    )
    assert len(losses) == 200
    assert losses[0] > 0.3
    assert losses[-1] < 0.03


def test_train_linear_network_finds_least_squares() -> None:
    """A linear network on the same data ends where `torch.linalg.lstsq` does."""
    x, y = make_points()
    net = nn.Linear(1, 1, dtype=torch.float64)
    train(net, F.mse_loss, (x, y), TrainConfig(0.05, 400, batch_size=20, seed=0))
    expected = torch.linalg.lstsq(torch.cat([x, torch.ones_like(x)], 1), y).solution.flatten()
    assert [net.weight.item(), net.bias.item()] == pytest.approx(expected.tolist(), abs=1e-3)


def test_train_non_finite_loss_raises() -> None:
    with pytest.raises(ValueError, match="in epoch 1; a smaller learning rate may help"):
        train(TinyMLP(4, seed=0), lambda p, t: F.mse_loss(p, t) / 0, make_points(), TrainConfig(0.1, 2, 5, 0))
