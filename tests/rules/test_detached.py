"""Values that a model detaches: relevance passes as if they were not, unless a rule makes them constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import FxlrpWarning, RuleError
from fxlrp.rules import Constant
from helpers import FRONT_ENDS
from oracles import One, assert_relevance, random

X = random(3, 4, seed=2)
CODES, WEIGHT = random(6, 4, seed=3), random(4, 4, seed=4)
DETACHED = [("detach", Constant())]


def quantized(x: Tensor) -> Tensor:
    """The nearest code, and the derivative of what it stands for."""
    z = x @ WEIGHT
    nearest = torch.cdist(z.detach(), CODES).argmin(1)
    return z + (F.embedding(nearest, CODES) - z).detach()


def chosen(x: Tensor) -> Tensor:
    """One hot, and the derivative of the softmax."""
    soft = torch.softmax(x @ WEIGHT, -1)
    hard = torch.zeros_like(soft).scatter(1, soft.argmax(1, keepdim=True), 1.0)
    return hard - soft.detach() + soft


def normalized(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).detach()


FUNCTIONS: list[Callable[[Tensor], Tensor]] = [quantized, chosen, normalized]


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_gradient_is_that_of_autograd(function: Callable[[Tensor], Tensor], capture: Any) -> None:
    x, target = X.clone().requires_grad_(), function(X).abs().argmax(1)
    (expected,) = torch.autograd.grad(function(x)[torch.arange(3), target].sum(), x)
    rules = fxlrp.presets.gradient().override(DETACHED)
    explain = fxlrp.compile(One(function).eval(), rules, example_inputs=X, capture=capture)
    assert_relevance(explain(X, target=target), X * expected, 1e-10)
    assert "Constant()" in str(explain)


class Shifted(nn.Module):
    """What :func:`quantized` computes, with the numbers that it detaches."""

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(shift)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x @ WEIGHT + self.shift
        return out


@pytest.mark.parametrize("optimize", [True, False])
def test_relevance_is_that_with_a_constant(optimize: bool) -> None:
    with_numbers = Shifted(quantized(X) - X @ WEIGHT).eval()
    expected = fxlrp.compile(with_numbers, "epsilon")(X, target=1)
    rules = fxlrp.presets.epsilon().override(DETACHED)
    found = fxlrp.compile(One(quantized).eval(), rules, optimize=optimize)(X, target=1)
    assert_relevance(found, expected, 1e-10)


def test_without_a_rule_relevance_passes() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.relu((x @ WEIGHT).detach())

    found = fxlrp.compile(One(function).eval(), "epsilon")(X, target=1)
    expected = fxlrp.compile(One(lambda x: torch.relu(x @ WEIGHT)).eval(), "epsilon")(X, target=1)
    assert_relevance(found, expected, 1e-12)


def test_other_identities_are_named_as_well() -> None:
    """A pair for everything in a module, such as its softmax, makes no constant of its dropout."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Softmax(-1)).double().eval()
    with pytest.warns(FxlrpWarning, match="operation dropout.*Constant"):
        explain = fxlrp.compile(model, [("dropout", Constant())])
    assert explain(X, target=1).abs().sum() == 0
    with pytest.raises(RuleError, match="matches nothing"):
        fxlrp.compile(model, [("1", Constant())])
