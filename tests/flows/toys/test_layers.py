from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from flows.toys.layers import (
    DATASETS,
    LAYER_BIASES,
    LAYER_INPUTS,
    LAYER_WEIGHTS,
    collapse_linear_layers,
    compute_as_matrix,
    compute_side_by_side,
    forward,
    init_weights,
    make_network,
    measure_accuracy,
)
from flows.toys.training_cycle import TrainConfig, train


@given(st.lists(st.integers(1, 12), min_size=2, max_size=7), st.booleans(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_linear_layers_any_shape_collapse_into_one(widths: list[int], with_biases: bool, seed: int) -> None:
    generator = Generator().manual_seed(seed)
    weights, biases = init_weights(widths, generator)
    x = torch.randn(20, widths[0], dtype=torch.float64, generator=generator)
    product, bias = collapse_linear_layers(weights, biases if with_biases else None)
    assert product.shape == (widths[-1], widths[0])
    expected = F.linear(x, product, bias)
    torch.testing.assert_close(
        forward(weights, biases if with_biases else None, None, x), expected, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize("with_biases", [False, True])
def test_forward_equals_pytorchs_layers(depth: int, with_biases: bool) -> None:
    """f(W1·f(W0·x)) and so on, written out, and PyTorch's own layers."""
    generator = Generator().manual_seed(depth)
    weights, biases = init_weights([3, *[4] * (depth - 1), 2], generator)
    x = torch.randn(10, 3, dtype=torch.float64, generator=generator)
    modules: list[nn.Module] = []
    for weight, bias in zip(weights, biases, strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=with_biases, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(weight)
            if with_biases:
                linear.bias.copy_(bias)
        modules += [linear, nn.ReLU()]
    output = forward(weights, biases if with_biases else None, torch.relu, x)
    torch.testing.assert_close(output, nn.Sequential(*modules)(x))

    product, bias = collapse_linear_layers(weights, biases if with_biases else None)
    assert (output - (x @ product.T + bias)).abs().max() > 0.1, "with ReLU the layers do not collapse"


def train_network(shape: str, activation: str) -> tuple[nn.Sequential, tuple[Tensor, Tensor]]:
    generator = Generator().manual_seed(0)
    train_points, test_points = DATASETS[shape](200, 0.12, generator), DATASETS[shape](1000, 0.12, generator)
    net = make_network(activation, seed=0)
    config = TrainConfig(0.01, 40, batch_size=20, seed=0)
    train(net, F.binary_cross_entropy_with_logits, train_points, config)
    return net, test_points


def measure_nonlinearity(net: nn.Module, ends: tuple[Tensor, Tensor]) -> Any:
    """How far the logit half-way between points is from the mean of theirs: 0 if the network is linear."""
    with torch.no_grad():
        return (net((ends[0] + ends[1]) / 2) - (net(ends[0]) + net(ends[1])) / 2).abs().max().item()


@pytest.mark.parametrize(("shape", "line_at_most"), [("moons", 0.92), ("rings", 0.75)])
def test_relu_network_separates_what_a_linear_one_cannot(shape: str, line_at_most: float) -> None:
    linear, (points, classes) = train_network(shape, "none")
    relu, _ = train_network(shape, "ReLU")
    assert measure_accuracy(linear, (points, classes)) < line_at_most
    assert measure_accuracy(relu, (points, classes)) > 0.95
    ends = (points[:500], points[500:])
    assert measure_nonlinearity(linear, ends) < 1e-9
    assert measure_nonlinearity(relu, ends) > 1


@pytest.mark.parametrize(("shape", "right"), [("moons", 0.8), ("rings", 0.5)])
def test_datasets_are_not_linearly_separable_but_a_circle_separates_the_rings(
    shape: str, right: float
) -> None:
    points, classes = DATASETS[shape](1000, 0.0, Generator().manual_seed(1))
    assert classes.mean() == 0.5
    directions = torch.linspace(0, torch.pi, 60, dtype=torch.float64)
    along = points @ torch.stack([directions.cos(), directions.sin()])
    thresholds = torch.linspace(-2, 2, 81, dtype=torch.float64)
    above = along[:, :, None] > thresholds
    share = (above == (classes > 0)[:, None, None]).double().mean(0)
    assert right < torch.maximum(share, 1 - share).max() < 0.95
    if shape == "rings":
        assert ((points.norm(dim=1) < 0.8) == (classes > 0)).all()


def test_neurons_side_by_side_are_a_matrix() -> None:
    side_by_side = compute_side_by_side(LAYER_INPUTS, LAYER_WEIGHTS, LAYER_BIASES)
    assert compute_as_matrix(LAYER_INPUTS, LAYER_WEIGHTS, LAYER_BIASES) == pytest.approx(side_by_side)
    x = torch.tensor([LAYER_INPUTS], dtype=torch.float64)
    assert forward([LAYER_WEIGHTS], [LAYER_BIASES], torch.relu, x)[0].tolist() == pytest.approx(side_by_side)
    assert side_by_side[0] == pytest.approx(1.1), "the neuron of the toy `neuron`, before its sigmoid"


def test_init_weights_and_forward_invalid_shapes_raise() -> None:
    generator = Generator()
    with pytest.raises(ValueError, match="at least two widths"):
        init_weights([3], generator)
    with pytest.raises(ValueError, match="each at least 1, not \\[3, 0\\]"):
        init_weights([3, 0], generator)
    weights, biases = init_weights([2, 2, 2], generator)
    with pytest.raises(ValueError, match="2 layers need as many biases, not 1"):
        forward(weights, biases[:1], None, torch.zeros(1, 2, dtype=torch.float64))


def test_make_network_is_seeded_and_restores_the_global_generator() -> None:
    before = torch.get_rng_state()
    first, second = make_network("ReLU", seed=5), make_network("ReLU", seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
