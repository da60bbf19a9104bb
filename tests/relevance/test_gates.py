"""Gates, signal and weight, against closed forms in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxlrp import rules
from helpers import Function, epsilon_with, explained, of_one, of_two
from oracles import (
    Three,
    assert_relevance,
    dense_map,
    epsilon_rule,
    random,
    randomize,
    stabilize,
    through,
)
from transformer_oracles import summed_to

A, B, SEED = random(3, 4, 5, seed=1), random(3, 4, 5, seed=2), random(3, 4, 5, seed=3)

GATES: dict[str, Function] = {
    "x * sigmoid(h)": lambda x, h: x * torch.sigmoid(h),
    "sigmoid(h) * x": lambda x, h: torch.sigmoid(h) * x,
    "torch.mul": lambda x, h: torch.mul(x, h.sigmoid()),
    "method": lambda x, h: F.sigmoid(h).mul(x),
    "hardsigmoid": lambda x, h: F.hardsigmoid(h) * x,
    "gate reshaped": lambda x, h: torch.sigmoid(h).flatten(1).view(h.shape) * x,
    "gate from 1 - sigmoid": lambda x, h: x * (1 - torch.sigmoid(h)),
    "softmax": lambda x, h: x * torch.softmax(h, dim=1),
    "gate from 1 + sigmoid": lambda x, h: (1 + torch.sigmoid(h)) * x,
    "gate halved": lambda x, h: torch.mul(x, torch.sigmoid(h) / 2),
    "gate in place": lambda x, h: torch.relu(x).mul_(torch.sigmoid(h)),
    "gate scaled": lambda x, h: x * (2.0 * torch.sigmoid(h)),
    "tanh and sigmoid": lambda x, h: torch.tanh(x) * torch.sigmoid(h),
    "sigmoid and tanh": lambda x, h: torch.sigmoid(h) * torch.tanh(x),
    "silu": lambda x, h: F.silu(h) * x,
    "gelu": lambda x, h: x * F.gelu(h),
}


@pytest.mark.parametrize("name", GATES)
def test_signal_takes_all(name: str) -> None:
    relevance_x, relevance_h = of_two(GATES[name], A, B, SEED)
    assert_relevance(relevance_x, SEED)
    assert_relevance(relevance_h, torch.zeros_like(B))


@pytest.mark.parametrize("name", ["x * sigmoid(h)", "sigmoid(h) * x", "torch.mul", "method", "tanh and sigmoid"])
def test_gate_in_equal_parts(name: str) -> None:
    for relevance in of_two(GATES[name], A, B, SEED, epsilon_with(("mul", rules.Uniform()))):
        assert_relevance(relevance, SEED / 2)


def test_signal_and_gate_from_one_value() -> None:
    """x * sigmoid(x): all of R, whichever rule: the two halves meet in x."""
    assert_relevance(of_one(lambda x: x * torch.sigmoid(x), A, SEED), SEED)
    assert_relevance(of_one(lambda x: x * torch.sigmoid(x), A, SEED, epsilon_with(("mul", rules.Uniform()))), SEED)


def test_square_as_a_product() -> None:
    assert_relevance(of_one(lambda x: x * x, A, SEED, epsilon_with(("mul", rules.Uniform()))), SEED)
    assert_relevance(of_one(lambda x: x * x, A, SEED), SEED)


def test_product_of_two_signals_in_equal_parts() -> None:
    for relevance in of_two(lambda a, b: a * b, A, B, SEED, epsilon_with(("mul", rules.Uniform()))):
        assert_relevance(relevance, SEED / 2)


def test_product_of_two_signals_is_shared_once() -> None:
    """Nothing tells signal from gate here; whoever is chosen, relevance is neither doubled nor lost."""
    relevance_a, relevance_b = of_two(lambda a, b: a * b, A, B, SEED)
    assert_relevance(relevance_a + relevance_b, SEED)


def test_highway() -> None:
    """y = g a + (1 - g) b: the sum is shared in proportion, then each product goes to its signal."""

    def function(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
        g = torch.sigmoid(h)
        return g * a + (1 - g) * b

    h = random(3, 4, 5, seed=9)
    g = torch.sigmoid(h)
    ratio = SEED / stabilize(g * A + (1 - g) * B)
    found = explained(Three(function), (A, B, h), SEED)
    assert_relevance(found[0], g * A * ratio)
    assert_relevance(found[1], (1 - g) * B * ratio)
    assert_relevance(found[2], torch.zeros_like(h))


@pytest.mark.parametrize("shape", [(3, 4, 1), (3, 1, 5), (5,), (1, 1, 1), (4, 1)], ids=str)
def test_broadcast_gate(shape: tuple[int, ...]) -> None:
    h = random(*shape, seed=10)
    relevance_x, relevance_h = of_two(GATES["x * sigmoid(h)"], A, h, SEED)
    assert_relevance(relevance_x, SEED)
    assert_relevance(relevance_h, torch.zeros_like(h))
    relevance_x, relevance_h = of_two(GATES["x * sigmoid(h)"], A, h, SEED, epsilon_with(("mul", rules.Uniform())))
    assert_relevance(relevance_x, SEED / 2)
    assert_relevance(relevance_h, summed_to(SEED / 2, h.shape))


def test_broadcast_signal() -> None:
    x = random(3, 1, 5, seed=11)
    relevance_x, relevance_h = of_two(GATES["x * sigmoid(h)"], x, B, SEED)
    assert_relevance(relevance_x, SEED.sum(1, keepdim=True))
    assert_relevance(relevance_h, torch.zeros_like(B))


class SqueezeExcitation(nn.Module):
    """The ways that libraries write it: gate by convolutions, or by linear layers and a view."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down: nn.Module
        self.up: nn.Module
        if style == "convolutions":
            self.down, self.up = randomize(nn.Conv2d(4, 2, 1), 25), randomize(nn.Conv2d(2, 4, 1), 26)
        else:
            self.down, self.up = randomize(nn.Linear(4, 2), 25), randomize(nn.Linear(2, 4), 26)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "convolutions":
            return torch.sigmoid(self.up(F.relu(self.down(self.pool(x))))) * x
        b, c, _, _ = x.size()
        gate = torch.sigmoid(self.up(F.relu(self.down(self.pool(x).view(b, c)), inplace=True))).view(b, c, 1, 1)
        return x * gate.expand_as(x)


@pytest.mark.parametrize("style", ["convolutions", "linear layers"])
def test_squeeze_excitation(style: str) -> None:
    model, x, seed = SqueezeExcitation(style), random(2, 4, 3, 3), random(2, 4, 3, 3, seed=1)
    assert_relevance(explained(model, (x,), seed), seed)


@pytest.mark.parametrize("style", ["convolutions", "linear layers"])
def test_squeeze_excitation_in_equal_parts(style: str) -> None:
    """Half to x; half, summed over the plane, through sigmoid, layer, ReLU, layer and mean."""
    model, x, seed = SqueezeExcitation(style), random(2, 4, 3, 3), random(2, 4, 3, 3, seed=1)
    pooled = x.mean((2, 3))
    shape = (4, 1, 1) if style == "convolutions" else (4,)
    down = dense_map(model.down, shape)
    up = dense_map(model.up, (2, *shape[1:]))
    hidden = (pooled @ down.weight.T + down.bias).clamp(min=0).detach()
    at_gate = (seed / 2).sum((2, 3))
    at_pooled = epsilon_rule(down, pooled, epsilon_rule(up, hidden, at_gate)).detach()
    to_pixel = (at_pooled / stabilize(pooled)).reshape(2, 4, 1, 1) / 9
    relevance = explained(model, (x,), seed, epsilon_with(("mul", rules.Uniform())))
    assert_relevance(relevance, seed / 2 + x * to_pixel)


@pytest.mark.parametrize("style", ["chunk", "glu"])
def test_gated_linear_unit(style: str) -> None:
    """a sigmoid(b) with [a, b] = linear(x): all of R at a, nothing at b."""

    class GatedLinearUnit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = randomize(nn.Linear(5, 6), 27)

        def forward(self, x: Tensor) -> Tensor:
            if style == "glu":
                return F.glu(self.linear(x), dim=-1)
            a, b = self.linear(x).chunk(2, dim=-1)
            return a * torch.sigmoid(b)

    model, x, seed = GatedLinearUnit(), random(3, 5), random(3, 3, seed=1)
    at_linear = torch.cat([seed, torch.zeros_like(seed)], dim=-1)
    expected = through(epsilon_rule, dense_map(model.linear, (5,)), x, at_linear)
    assert_relevance(explained(model, (x,), seed), expected)
    if style == "chunk":
        at_linear = torch.cat([seed, seed], dim=-1) / 2
        expected = through(epsilon_rule, dense_map(model.linear, (5,)), x, at_linear)
        assert_relevance(explained(model, (x,), seed, epsilon_with(("mul", rules.Uniform()))), expected)


def test_gated_mlp() -> None:
    """down(silu(gate(x)) * up(x)), as language models write it: the signal is up."""

    class GatedMLP(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = randomize(nn.Linear(5, 6), 28)
            self.up = randomize(nn.Linear(5, 6), 29)
            self.down = randomize(nn.Linear(6, 5), 30)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(F.silu(self.gate(x)) * self.up(x))

    model, x, seed = GatedMLP(), random(2, 3, 5), random(2, 3, 5, seed=1)
    gate, up, down = (dense_map(m, (3, n)) for m, n in ((model.gate, 5), (model.up, 5), (model.down, 6)))
    hidden = (F.silu(model.gate(x)) * model.up(x)).detach()
    at_product = through(epsilon_rule, down, hidden, seed)
    to_up = through(epsilon_rule, up, x, at_product)
    assert_relevance(explained(model, (x,), seed), to_up)
    halves = to_up / 2 + through(epsilon_rule, gate, x, at_product) / 2
    assert_relevance(explained(model, (x,), seed, epsilon_with(("mul", rules.Uniform()))), halves)
