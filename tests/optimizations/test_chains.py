"""Chains of layers whose units are dead, or whose values are exactly zero or of one sign: the same relevance."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxlrp
from fxlrp import rules
from optimization_checks import CHAINS, CONFIGURATIONS, LINEAR_RULES, as_it_is, assert_same, chain, is_linear
from optimization_nets import PRESETS
from oracles import One, assert_relevance, random

slow = pytest.mark.slow

WEIGHT, OTHER = random(6, 6, seed=1), random(6, 6, seed=2)
X, Y = random(3, 6, seed=3), random(3, 6, seed=4)


def some_dead(model: nn.Sequential) -> None:
    """Hidden units that are never active."""
    first: Any = model[0]
    if first.bias is not None:
        first.bias[1:] = -100.0
    first.weight[:, 1:] = 0.0


def all_dead(model: nn.Sequential) -> None:
    """Weights and biases are negative: where inputs are positive, no hidden unit is active."""
    for parameter in model[0].parameters():
        parameter.copy_(-parameter.abs())


def negative(model: nn.Sequential) -> None:
    for parameter in model[2].parameters():
        parameter.copy_(-parameter.abs())


def positive(model: nn.Sequential) -> None:
    for parameter in model[2].parameters():
        parameter.copy_(parameter.abs())


def exactly_zero(model: nn.Sequential) -> None:
    """Outputs that are exactly zero, though their inputs are not."""
    second, third = model[2], model[4]
    for parameter in second.parameters():
        parameter.view(-1)[::2] = 0.0
    for parameter in third.parameters():
        parameter[0] = 0.0


EXTREMES = (as_it_is, some_dead, all_dead, negative, positive, exactly_zero)

COMMON_CHAINS = ("dense", "conv2d", "groups", "conv_transpose2d")


@pytest.mark.sampled(3, "name")
@pytest.mark.slow
@pytest.mark.parametrize("rule", LINEAR_RULES, ids=str)
@pytest.mark.parametrize("name", [name if name in COMMON_CHAINS else pytest.param(name, marks=slow) for name in CHAINS])
def test_dead_units_and_inputs_of_one_sign(name: str, rule: rules.Rule) -> None:
    """Two explainers for all of it: weights change under them, inputs, and the size of the batch."""
    model, shape = chain(name)
    preset = PRESETS["epsilon"].override([(is_linear, rule)])
    plain, optimized = (fxlrp.compile(model, preset, optimize=each) for each in (False, True))
    state = copy.deepcopy(model.state_dict())
    x = random(2, *shape, seed=7)
    for change in EXTREMES:
        with torch.no_grad():
            model.load_state_dict(state)
            change(model)
        for inputs in (x, x[:1].abs(), -x.abs(), x.clamp(min=0), torch.zeros_like(x)):
            expected = plain(inputs, seed=torch.ones_like)
            assert_relevance(optimized(inputs, seed=torch.ones_like), expected)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_dead_units_in_every_configuration(configuration: str) -> None:
    for rule in (rules.Gamma(stabilizer=0.0), rules.AlphaBeta(), rules.Epsilon(0.0)):
        model, shape = chain("conv2d")
        x = random(2, *shape, seed=7)
        with torch.no_grad():
            some_dead(model)
            exactly_zero(model)
        preset = PRESETS["epsilon"].override([(is_linear, rule)])
        assert_same(model, preset, x, configurations=[configuration], seed=torch.ones_like)


@pytest.mark.slow
@pytest.mark.parametrize("rule", LINEAR_RULES, ids=str)
def test_values_that_are_exactly_zero(rule: rules.Rule) -> None:
    """Without a ReLU: units without weights, differences of a value with itself, sums of opposites."""
    weight = WEIGHT.clone()
    weight[::2] = 0.0
    for function in (
        lambda x: F.linear(F.linear(F.linear(x, WEIGHT), weight), OTHER),
        lambda x: F.linear((F.linear(x, WEIGHT) - F.linear(x, WEIGHT)) + F.linear(x, weight), OTHER),
        lambda x: F.linear(F.linear(x, weight) + F.linear(-x, weight) + torch.stack([x, -x, x], 1).sum(1), OTHER),
        lambda x: F.linear(torch.cat([F.linear(x, weight), -x], 1).reshape(-1, 2, 6).mean(1), OTHER),
    ):
        for epsilon in (0.0, 0.25):
            preset = fxlrp.presets.epsilon(epsilon).override([(is_linear, rule)])
            assert_same(One(function).eval(), preset, X, seed=torch.ones_like)
