"""An optimization never changes an answer: every operation between a ReLU and the output, optimized and not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
from fxlrp.operation import Operation
from helpers import some_of_each
from nets_around_operations import RULES, TOLERANCE, WRITTEN, Between, Hidden, Sources, complaints, sources
from operation_samples import Setting, settings
from places import fixed

# Quick each, but many.
pytestmark = pytest.mark.slow

CASES = [
    pytest.param(operation, setting, id=f"{operation.name}({setting.name})")
    for operation in WRITTEN
    for setting in settings(operation)
    # A power of a negative number with a fraction is NaN.
    if not (operation.name == "pow" and len(setting.places) > 1)
]


def cases_of(operation: Operation, setting: Setting) -> Iterator[tuple[Sources, str]]:
    """Sources and rules: every rule where it reads the hidden layer first, the most telling one elsewhere."""
    for turn, chosen in enumerate(sources(setting)):
        for rules in RULES:
            if turn == 0 or rules == "gamma behind a box":
                yield chosen, rules


@pytest.mark.parametrize(("operation", "setting"), list(some_of_each(5, CASES)))
def test_optimizations_change_nothing(operation: Operation, setting: Setting) -> None:
    found = []
    for chosen, rules in cases_of(operation, setting):
        model = Between(operation, setting, chosen, stem="box" in rules)
        inputs = [model.hidden.inputs()]
        if model.hidden.stem is None:
            inputs.append(model.hidden.silencing_inputs())
        wrong = complaints(model, RULES[rules], *inputs, tolerance=TOLERANCE[model.precision])
        found += [f"{'/'.join(chosen)} by {rules}, {one}" for one in wrong]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("operation", "setting"), list(some_of_each(5, CASES)))
def test_a_relu_afterwards_leaves_what_the_operation_reads(operation: Operation, setting: Setting) -> None:
    """Without a ReLU before it, so that one which works in the memory of the hidden layer would change that."""
    chosen = sources(setting)[0]
    model = Between(operation, setting, chosen, rectify=False, rectify_after=True)
    x = model.hidden.inputs()
    if not bool(model(x).isfinite().all()):
        pytest.skip("not defined for negative values")
    found = complaints(model, RULES["gamma"], x, tolerance=TOLERANCE[model.precision])
    assert not found, found


def test_the_hidden_layer_has_both_signs_before_its_relu() -> None:
    shapes = {place.shape for operation in WRITTEN for setting in settings(operation) for place in setting.places}
    for shape in shapes:
        for stem in (False, True):
            hidden = Hidden(shape, stem=stem)
            before = hidden.before_relu(hidden.inputs())
            assert bool((before > 0).any() and (before < 0).any()), shape
            assert bool((hidden.inputs() == 0).any() and (hidden(hidden.inputs()) == 0).any())
        hidden = Hidden(shape)
        silent = hidden(hidden.silencing_inputs())
        assert bool((silent if len(shape) == 1 else silent[0]).eq(0).all())


class ByHand(nn.Module):
    """``head(function(relu(first(x))))`` for a function of values (4, 6)."""

    def __init__(self, function: Callable[[Tensor], Tensor], *, stem: bool = False) -> None:
        super().__init__()
        self.hidden, self.function = Hidden((4, 6), stem=stem), function
        with torch.no_grad():
            width = function(self.hidden(self.hidden.inputs())).numel() // 4
        self.head = nn.Linear(width, 3).double()
        with torch.no_grad():
            self.head.weight.copy_(fixed(3, width))
            self.head.bias.copy_(fixed(3))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.function(self.hidden(x)).reshape(4, -1))
        return output


def assigned_where_infinite(x: Tensor) -> Tensor:
    y = x.log()
    y[x == 0] = -3.0
    return y


BY_HAND: dict[str, Callable[[Tensor], Tensor]] = {
    "log of a sum of exponentials": lambda x: x.exp().sum(-1).log(),
    "its stable form": lambda x: (x - x.amax(-1, keepdim=True)).exp().sum(-1).log() + x.amax(-1),
    "exponential": lambda x: x.exp(),
    "exponential minus one": lambda x: x.exp() - 1,
    "exponential of the negative": lambda x: (-x).exp(),
    "softmax by hand": lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
    "running sum": lambda x: x.cumsum(-1),
    "running sum of what came before": lambda x: x.cumsum(-1) - x,
    "standardized": lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 0.1),
    "over its deviation": lambda x: x / (x.std(-1, keepdim=True) + 0.1),
    "deviation beside the mean": lambda x: torch.cat([x.std(-1), x.mean(-1)]),
    "deviation over the mean": lambda x: x.std(-1) / (x.mean(-1) + 0.1),
    "largest minus smallest": lambda x: x.amax(-1) - x.min(-1)[0],
    "unit length": lambda x: x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + 0.1),
    "length of differences": lambda x: torch.linalg.vector_norm(x[:, 1:] - x[:, :-1], dim=-1),
    "length by hand": lambda x: (x * x).sum(-1).sqrt(),
    "variance by hand": lambda x: ((x - x.mean(-1, keepdim=True)) ** 2).mean(-1),
    "zero over zero replaced": lambda x: torch.nan_to_num(x / x, nan=-1.0),
    "logarithm of zero replaced": lambda x: torch.nan_to_num(x.log(), neginf=-3.0),
    "logarithm above a bound": lambda x: x.log().clamp(min=-3.0),
    "logarithm or a bound": lambda x: torch.maximum(x.log(), torch.full((4, 6), -3.0, dtype=x.dtype)),
    "logarithm where it is positive": lambda x: torch.where(x > 0, x.log(), 0.0),
    "logarithm filled": lambda x: x.log().masked_fill(x == 0, -3.0),
    "logarithm and back": lambda x: x.log().exp(),
    "sigmoid of the logarithm": lambda x: torch.sigmoid(x.log()),
    "rectified logarithm": lambda x: torch.relu(x.log()),
    "largest logarithm": lambda x: x.log().amax(-1),
    "selected logarithms": lambda x: x.log()[:, ::2].clamp(min=-3.0),
    "reciprocal below a bound": lambda x: (1 / x).clamp(max=3.0),
    "reciprocal where it is positive": lambda x: torch.where(x > 0, 1 / x, 0.0),
    "reciprocal of the reciprocal": lambda x: 1 / (1 / x),
    "tangent of the reciprocal": lambda x: torch.tanh(x.reciprocal()),
    "root of the reciprocal replaced": lambda x: torch.nan_to_num(x.rsqrt(), posinf=2.0),
    "share replaced": lambda x: torch.nan_to_num(x / (x * (x > 0.5)).sum(-1, keepdim=True)),
    "lowest score masked": lambda x: torch.softmax(x.masked_fill(x == 0, float("-inf")), -1),
    "assigned where it is infinite": assigned_where_infinite,
    "not a number where it is zero": lambda x: torch.nan_to_num(torch.where(x == 0, float("nan"), x), nan=-1.0),
    "mirrored": lambda x: 1 - x,
    "negative": lambda x: -x,
    "rectified negative": lambda x: torch.relu(0.5 - x),
    "one where it is zero": lambda x: torch.where(x == 0, 1.0, x),
    "filled where it is zero": lambda x: x.masked_fill(x == 0, -1.0),
    "padded with ones": lambda x: F.pad(x, (1, 1), value=1.0),
    "cosine": lambda x: torch.cos(x),
    "sigmoid of the sum": lambda x: torch.sigmoid(x.sum(-1) - 1),
    "softplus": lambda x: F.softplus(x - 1),
    "mean of the logarithm": lambda x: torch.log(x + 1e-3).mean(-1),
    "geometric mean": lambda x: torch.log(x + 1e-3).mean(-1).exp(),
    "sorted differences": lambda x: (lambda s: s[:, 1:] - s[:, :-1])(x.sort(-1)[0]),
    "all of it": lambda x: x[...],
    "all of it but the last": lambda x: x[..., :-1],
    "entropy": lambda x: (lambda p: -(p * (p + 1e-3).log()).sum(-1))(torch.softmax(x, -1)),
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name: str, rules: str) -> None:
    model = ByHand(BY_HAND[name], stem="box" in rules)
    found = complaints(model, RULES[rules], model.hidden.inputs())
    assert not found, found


@pytest.mark.parametrize("epsilon", (0.0, 0.25))
@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand_with_other_epsilons(name: str, epsilon: float) -> None:
    model = ByHand(BY_HAND[name])
    rules = fxlrp.presets.epsilon(epsilon).override(RULES["gamma"])
    found = complaints(model, rules, model.hidden.inputs(), tolerance=1e-8)
    assert not found, found


def shifted(x: Tensor) -> Tensor:
    return x - 1


def turned(x: Tensor) -> Tensor:
    return x.t()


def summed(x: Tensor, y: Tensor) -> Tensor:
    return x.exp() + y


@fxlrp.rule_for(shifted)
def shifted_evenly(x: Tensor, *, out: Tensor, relevance: Tensor) -> Tensor:
    return torch.ones_like(x) * relevance.sum(-1, keepdim=True) / x.shape[-1]


@fxlrp.rule_for(turned)
def turned_back(x: Tensor, *, out: Tensor, relevance: Tensor) -> Tensor:
    return relevance.t() + 0.1


@fxlrp.rule_for(summed, operands=("x", "y"))
def summed_by_halves(x: Tensor, y: Tensor, *, out: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    return relevance / 2, relevance / 2


@fxlrp.rule_for(torch.tanh)
def tanh_evenly(x: Tensor, *, out: Tensor, relevance: Tensor) -> Tensor:
    return torch.ones_like(x) * relevance.mean()


def evenly(x: Tensor, *_: Any, out: Tensor, relevance: Tensor, **__: Any) -> Tensor:
    return torch.ones_like(x) * relevance.mean()


MADE_UP: dict[str, tuple[Callable[[Tensor], Tensor], Any]] = {
    "shifted": (lambda x: shifted(x), shifted_evenly),
    "shifted and rectified": (lambda x: torch.relu(shifted(x)), shifted_evenly),
    "shifted behind a sum": (lambda x: shifted(x + x), shifted_evenly),
    "turned": (lambda x: turned(x).t(), turned_back),
    "turned and rectified": (lambda x: torch.relu(turned(x)).t() + x, turned_back),
    "summed": (lambda x: summed(x, -x), summed_by_halves),
    "tanh": (lambda x: torch.tanh(x), tanh_evenly),
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", MADE_UP)
def test_made_up(name: str, rules: str) -> None:
    function, extension = MADE_UP[name]
    model = ByHand(function, stem="box" in rules)
    found = complaints(model, RULES[rules], model.hidden.inputs(), extensions=[extension])
    assert not found, found


@pytest.mark.parametrize("name", ("amax", "mean", "tanh", "sum", "flip", "std", "exp"))
def test_a_rule_of_the_users_on_an_operation_that_has_one(name: str) -> None:
    calls: dict[str, Callable[[Tensor], Tensor]] = {
        "amax": lambda x: x.amax(-1),
        "mean": lambda x: x.mean(-1),
        "tanh": lambda x: torch.tanh(x),
        "sum": lambda x: x.sum(-1),
        "flip": lambda x: x.flip(1),
        "std": lambda x: x.std(-1),
        "exp": lambda x: x.exp(),
    }
    model = ByHand(calls[name])
    rules = [*RULES["gamma"], (name, fxlrp.rules.Custom(evenly))]
    found = complaints(model, rules, model.hidden.inputs())
    assert not found, found
