"""Linear maps behind activations with results of both signs, on their dense matrices, and how many maps they need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
import oracles
from fxlrp import rules
from optimization_checks import kernels
from oracles import assert_relevance, dense_map, random, relative_error, through

# Layers, each with the shape of a sample.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 8), (6,)),
    "conv": (lambda: nn.Conv2d(4, 3, 3, stride=2, padding=1), (4, 6, 5)),
    "widening": (lambda: nn.Conv2d(2, 6, 3, padding="same"), (2, 5, 4)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, padding=1), (4, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 3, 3, stride=2, output_padding=1, bias=False), (4, 3, 3)),
}
RULES: dict[str, tuple[rules.Rule, Callable[..., Tensor], dict[str, Any]]] = {
    "zplus": (rules.ZPlus(), oracles.zplus_rule, {}),
    "zplus_without_bias": (rules.ZPlus(bias=False), oracles.zplus_rule, {"bias": False}),
    "alpha_beta": (rules.AlphaBeta(), oracles.alpha_beta_rule, {}),
    "alpha_beta_without_bias": (rules.AlphaBeta(bias=False), oracles.alpha_beta_rule, {"bias": False}),
    "alpha1": (rules.AlphaBeta(1.0, 0.0), oracles.alpha_beta_rule, {"alpha": 1.0, "beta": 0.0}),
    "gamma": (rules.Gamma(0.25), oracles.gamma_rule, {"gamma": 0.25}),
    "gamma_of_0": (rules.Gamma(0.0, stabilizer=1e-3), oracles.gamma_rule, {"gamma": 0.0, "epsilon": 1e-3}),
    "large_gamma": (rules.Gamma(1000.0), oracles.gamma_rule, {"gamma": 1000.0}),
    "gamma_without_epsilon": (rules.Gamma(stabilizer=0.0), oracles.gamma_rule, {"epsilon": 0.0}),
}
BEFORE: dict[str, Callable[[Tensor], Tensor]] = {"identity": lambda x: x, "silu": F.silu, "relu6": F.relu6}
AFTER: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "relu": F.relu,
    "relu6": F.relu6,
    "clamp": lambda z: z.clamp(0, 0.5),
    "silu": F.silu,
    "hardswish": F.hardswish,
    "cosine": torch.cos,
}


class Between(nn.Module):
    """``head(after(layer(before(x))))``."""

    def __init__(
        self, layer: nn.Module, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor], x: Tensor
    ) -> None:
        super().__init__()
        self.layer, self.before, self.after = layer.double(), before, after
        width = self.activated(x).shape[1]
        self.head = nn.Linear(width, 3, bias=False)
        self.head.weight.data = random(3, width, seed=5)

    def activated(self, x: Tensor) -> Tensor:
        activated: Tensor = self.after(self.layer(self.before(x))).flatten(1)
        return activated

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.activated(x))
        return logits


def between(layer: str, before: str, after: str) -> tuple[Between, Tensor]:
    build, shape = LAYERS[layer]
    torch.manual_seed(len(layer))
    x = 2 * random(3, *shape, seed=6)
    x[1] = x[1] * (x[1] > 0.5)
    x[2] = 0.0
    return Between(build(), BEFORE[before], AFTER[after], x).eval(), x


def by_hand(model: Between, x: Tensor, name: str, seed: Tensor) -> Tensor:
    """LRP-epsilon for the head, which hands the layer what its activation receives."""
    _, oracle, options = RULES[name]
    y = model.activated(x).detach()
    received = oracles.epsilon_rule(dense_map(model.head, y.shape[1:]), y, seed)
    z = model.layer(model.before(x))
    return through(oracle, dense_map(model.layer, x.shape[1:]), model.before(x), received.reshape(z.shape), **options)


CASES = [
    (layer, before, after)
    for position, layer in enumerate(LAYERS)
    for before in BEFORE
    for after in (list(AFTER) if layer == "conv" else list(AFTER)[position::3])
]


def preset(rule: rules.Rule) -> Any:
    return fxlrp.presets.epsilon().override([("layer", rule)])


@pytest.mark.sampled(3, "name")
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("layer", "before", "after"), CASES)
def test_rule_between_two_activations(layer: str, before: str, after: str, name: str) -> None:
    model, x = between(layer, before, after)
    seed = random(3, 3, seed=7)
    expected = by_hand(model, x, name, seed).detach()
    for optimize in (True, False):
        assert_relevance(fxlrp.compile(model, preset(RULES[name][0]), optimize=optimize)(x, seed=seed), expected, 1e-9)


@pytest.mark.parametrize("name", ["zplus", "gamma", "large_gamma", "alpha_beta"])
@pytest.mark.parametrize("after", ["relu", "silu"])
def test_nothing_cancels(after: str, name: str) -> None:
    """In single precision, with outputs to which all contributions are negative, or all but a small one."""
    model, x = between("linear", "silu", after)
    assert isinstance(model.layer, nn.Linear)
    with torch.no_grad():
        signs = F.silu(x[0]).sign()
        model.layer.weight.copy_(-signs * random(8, 6, seed=8).abs())
        model.layer.weight[4:, 0].mul_(-torch.tensor([1e-3, 1e-5, 1.0, 10.0], dtype=torch.float64))
        model.layer.bias.copy_(torch.tensor([0.0, 0.0, -1.0, -1.0, 0.0, 0.0, 0.0, 0.0]))
        # The head itself adds up terms of one sign.
        model.head.weight.abs_().mul_(model.activated(x[:1]).sign())
    x, seed = x[:1], random(1, 3, seed=7)
    expected = by_hand(model, x, name, seed).detach()
    relevance = fxlrp.compile(model.float(), preset(RULES[name][0]))(x.float(), seed=seed.float())
    assert relative_error(relevance.double(), expected) < 2e-6


@pytest.mark.parametrize(
    ("name", "before", "after", "forward", "backward"),
    [
        # The layer's own map is one of the forward maps.
        ("gamma", "silu", "silu", 2, 2),
        ("gamma", "silu", "relu", 2, 2),
        ("gamma", "relu6", "identity", 2, 2),
        ("gamma", "relu6", "relu6", 2, 1),
        ("zplus", "silu", "silu", 3, 2),
        ("zplus", "silu", "relu6", 3, 2),
        ("zplus", "relu6", "silu", 2, 1),
        ("alpha_beta", "silu", "silu", 5, 4),
        ("alpha_beta", "silu", "clamp", 3, 4),
        ("alpha_beta", "relu6", "clamp", 2, 2),
    ],
)
@pytest.mark.parametrize("layer", ["conv", "depthwise"])
def test_number_of_maps(layer: str, name: str, before: str, after: str, forward: int, backward: int) -> None:
    model, x = between(layer, before, after)
    count = kernels(fxlrp.compile(model, preset(RULES[name][0])), x).count
    assert (count["convolution"], count["convolution_backward"]) == (forward, backward)


def test_a_widening_layer_has_one_map_for_both_signs() -> None:
    model, x = between("widening", "silu", "silu")
    count = kernels(fxlrp.compile(model, preset(rules.ZPlus())), x).count
    assert (count["convolution"], count["convolution_backward"]) == (2, 1)
