"""`c / x`, where only the denominator depends on the input: relevance passes through to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from oracles import random

PARAMETER = torch.tensor([2.0, -3.0, 0.5], dtype=torch.float64)


class Divided(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.parameter = nn.Parameter(PARAMETER.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.parameter)


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a number": lambda x, p: 2 / x,
    "torch.div": lambda x, p: torch.div(2.0, x),
    "a tensor": lambda x, p: torch.tensor(2.0, dtype=torch.float64) / x,
    "a parameter": lambda x, p: p / x,
    "computed from a parameter": lambda x, p: (2 * p).exp() / x,
    "a size": lambda x, p: x.shape[1] / x,
    "a method's size": lambda x, p: x.size(-1) / x,
    "ones": lambda x, p: torch.ones_like(x) / x,
    "in place": lambda x, p: torch.ones_like(x).div_(x),
}


@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "plain"])
@pytest.mark.parametrize("capture", ["symbolic", "export"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_relevance_of_the_denominator(name: str, capture: Any, optimize: bool) -> None:
    model, x = Divided(FUNCTIONS[name]).eval(), random(2, 3)
    explain = fxlrp.compile(model, capture=capture, example_inputs=x, optimize=optimize)
    expected = torch.zeros_like(x)
    expected[:, 1] = model(x)[:, 1].detach()
    torch.testing.assert_close(explain(x, target=1), expected, rtol=1e-12, atol=1e-12)


def test_a_denominator_that_broadcasts_receives_the_sum() -> None:
    model, x = Divided(lambda x, p: p / x).eval(), random(2, 1)
    torch.testing.assert_close(fxlrp.compile(model)(x, target=...), model(x).detach().sum(1, keepdim=True))


def test_a_numerator_that_depends_on_the_input_still_receives_all() -> None:
    model, x = Divided(lambda x, p: (p * x) / (1 + x.abs())).eval(), random(2, 3)
    torch.testing.assert_close(fxlrp.compile(model)(x, target=...), model(x).detach())


def test_of_two_constants_nothing_changes() -> None:
    explain = fxlrp.compile(Divided(lambda x, p: x * (p / (1 + p * p))).eval())
    assert [node.name for node in explain.nodes if "pow" in node.name] == []
