"""Activations let everything pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxlrp
from helpers import Function, explained
from oracles import (
    One,
    assert_relevance,
    dense_map,
    epsilon_rule,
    random,
    through,
)

ACTIVATIONS: dict[str, nn.Module | Function] = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "nn.ReLU6": nn.ReLU6(),
    "nn.LeakyReLU": nn.LeakyReLU(0.2),
    "nn.PReLU": nn.PReLU(),
    "nn.PReLU by channel": nn.PReLU(4),
    "nn.ELU": nn.ELU(),
    "nn.CELU": nn.CELU(),
    "nn.SELU": nn.SELU(),
    "nn.GELU": nn.GELU(),
    "nn.GELU tanh": nn.GELU(approximate="tanh"),
    "nn.SiLU": nn.SiLU(inplace=True),
    "nn.Hardswish": nn.Hardswish(inplace=True),
    "nn.Hardsigmoid": nn.Hardsigmoid(),
    "nn.Hardtanh": nn.Hardtanh(-0.5, 0.5),
    "nn.Tanh": nn.Tanh(),
    "nn.Sigmoid": nn.Sigmoid(),
    "nn.Softplus": nn.Softplus(),
    "nn.Softsign": nn.Softsign(),
    "nn.Mish": nn.Mish(),
    "nn.Identity": nn.Identity(),
    "nn.Dropout": nn.Dropout(0.5),
    "nn.Dropout2d": nn.Dropout2d(0.5),
    "F.relu": lambda x: F.relu(x),
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": lambda x: torch.relu(x),
    "method relu": lambda x: x.relu(),
    "F.relu6": lambda x: F.relu6(x),
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.3),
    "F.elu": lambda x: F.elu(x),
    "F.gelu": lambda x: F.gelu(x),
    "F.silu": lambda x: F.silu(x),
    "F.mish": lambda x: F.mish(x),
    "F.hardswish": lambda x: F.hardswish(x),
    "F.hardsigmoid": lambda x: F.hardsigmoid(x),
    "F.softplus": lambda x: F.softplus(x),
    "torch.tanh": lambda x: torch.tanh(x),
    "torch.sigmoid": lambda x: x.sigmoid(),
    "clamp": lambda x: x.clamp(-1, 1),
    "torch.clamp": lambda x: torch.clamp(x, min=0.0),
    "F.dropout": lambda x: F.dropout(x, 0.5, training=False),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_passes_everything(name: str) -> None:
    activation, x = ACTIVATIONS[name], random(3, 4, 5)
    model = nn.Sequential(activation) if isinstance(activation, nn.Module) else One(activation)
    seed = random(3, 4, 5, seed=1)
    given = x.clone()
    explain = fxlrp.compile(model.double().eval(), rules="epsilon")
    assert_relevance(explain(given, seed=seed), seed)
    assert torch.equal(given, x), "the input was written to"


def test_in_place_activation_keeps_what_the_layer_below_needs() -> None:
    """ReLU(inplace=True) overwrites z, which the rule of the layer below divides by."""
    torch.manual_seed(1)
    linear = nn.Linear(5, 4).double()
    x, seed = random(3, 5), random(3, 4)
    expected = through(epsilon_rule, dense_map(linear, (5,)), x, seed)
    for activation in (nn.ReLU(inplace=True), nn.Hardswish(inplace=True), nn.ReLU()):
        assert_relevance(explained(nn.Sequential(linear, activation), (x,), seed), expected)
