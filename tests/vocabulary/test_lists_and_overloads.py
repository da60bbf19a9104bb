"""Calls with a list of tensors, of all results of another call, and of ATen itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import presets
from fxlrp.vocabulary import CANONICAL
from oracles import assert_relevance, random
from zoo import gradient_times_input


class After(nn.Module):
    """A call behind a linear layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.function = nn.Linear(4, 4, bias=False), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "meshgrid of a list": lambda y: torch.stack(torch.meshgrid([y[0], y[1]], indexing="ij")).flatten(1),
    "meshgrid of all parts": lambda y: torch.cat(torch.meshgrid(*y.unbind(0), indexing="xy")),
    "tensor_split at constant places": lambda y: torch.cat(
        [part.sum(1, keepdim=True) for part in torch.tensor_split(y, torch.tensor([1, 3]), dim=1)], 1
    ),
    "combinations": lambda y: torch.combinations(y[0]),
    "combinations with replacement": lambda y: torch.combinations(y[1], 3, with_replacement=True),
    "overload": lambda y: torch.ops.aten.flip.default(y, [1]),
    "packet": lambda y: torch.ops.aten.flip(y, [1]),
    "chunks together": lambda y: torch.cat(y.chunk(2, 1)[::-1], 1),
}


@pytest.mark.parametrize("name", LINEAR)
def test_relevance_is_gradient_times_input(name: str) -> None:
    model, x = After(LINEAR[name]).double().eval(), random(2, 4)
    (expected,) = gradient_times_input(model, x, select=lambda y: y[:, 1].sum())
    assert_relevance(fxlrp.compile(model, presets.epsilon(0.0), example_inputs=x)(x, target=1), expected, 1e-12)


@pytest.mark.parametrize("function", [torch.ops.aten._safe_softmax, torch.ops.aten._safe_softmax.default])
def test_softmax_of_aten_has_the_rule_of_softmax(function: Callable[..., Tensor]) -> None:
    x = random(2, 4)
    model, own = (After(call).double().eval() for call in (lambda y: function(y, -1), lambda y: y.softmax(-1)))
    found, expected = (fxlrp.compile(each, presets.attnlrp(), example_inputs=x)(x, target=1) for each in (model, own))
    assert_relevance(found, expected, 1e-12)


def test_a_covariance_shares_equally_between_its_two_factors() -> None:
    """It is a quadratic form: half of gradient x input."""
    model, x = After(torch.cov).double().eval(), random(3, 4)
    (expected,) = gradient_times_input(model, x, select=lambda y: y[:, 1].sum())
    found = fxlrp.compile(model, presets.epsilon(0.0), example_inputs=x)(x, target=1)
    assert_relevance(found, expected / 2, 1e-12)


def test_functions_of_aten_are_known_by_name() -> None:
    plain, in_place = (CANONICAL.spelling(function) for function in (torch.ops.aten.mul, torch.ops.aten.mul_))
    assert plain is not None and in_place is not None
    assert plain.operation is in_place.operation is CANONICAL.operations["mul"]
    assert in_place.inplace and not plain.inplace
    # The same name elsewhere is another function.
    assert CANONICAL.spelling(torch.ops.prims.mul) is None
