"""One value more than once, and values that are changed in place, against closed forms in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import rules
from fxlrp.errors import CaptureError
from helpers import epsilon_with, explained, of_one
from oracles import (
    EPSILON,
    One,
    assert_relevance,
    dense_map,
    epsilon_rule,
    random,
    randomize,
    stabilize,
    through,
)

A, B, SEED = random(3, 4, 5, seed=1), random(3, 4, 5, seed=2), random(3, 4, 5, seed=3)


@pytest.mark.parametrize(
    "option", [rules.Epsilon(), rules.Magnitude(), rules.Equal(), rules.Only(0), rules.Only(1)], ids=str
)
def test_value_added_to_itself(option: object) -> None:
    """x + x has two contributions that add up to all of R."""
    relevance = of_one(lambda x: x + x, A, SEED, epsilon_with(("add", option)))
    expected = SEED
    if isinstance(option, (rules.Epsilon, rules.Magnitude)):
        expected = 2 * A.abs() * SEED / (2 * A.abs() + EPSILON)
    assert_relevance(relevance, expected)


def test_value_added_three_times() -> None:
    relevance = of_one(lambda x: x + x + x, A, SEED)
    last = SEED / stabilize(3 * A)
    assert_relevance(relevance, A * last + 2 * A * (2 * A * last) / stabilize(2 * A))


def test_value_subtracted_from_its_multiple() -> None:
    """3x - x: 3x R / s(2x) goes one way, -x R / s(2x) the other."""
    relevance = of_one(lambda x: 3 * x - x, A, SEED)
    assert_relevance(relevance, 2 * A * SEED / stabilize(2 * A))


def test_in_place_sum_is_seen_by_later_uses() -> None:
    """h.add_(1) returns what nobody uses, and h is another value from there on."""

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = randomize(nn.Linear(5, 5))

        def forward(self, x: Tensor) -> Tensor:
            h = self.linear(x)
            h.add_(1.0)
            return h + x

    model, x, seed = InPlace(), random(3, 5), random(3, 5, seed=1)
    h = model.linear(x).detach()
    ratio = seed / stabilize(h + 1 + x)
    at_h = h * ((h + 1) * ratio) / stabilize(h + 1)
    expected = x * ratio + through(epsilon_rule, dense_map(model.linear, (5,)), x, at_h)
    assert_relevance(explained(model, (x,), seed), expected)


def test_in_place_relu_is_seen_by_later_uses() -> None:
    """a = relu(h) in place makes h the same as a: y = 2 relu(h)."""

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = randomize(nn.Linear(5, 5))
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            h = self.linear(x)
            return self.relu(h) + h

    model, x, seed = InPlace(), random(3, 5), random(3, 5, seed=1)
    h = model.linear(x).detach().relu()
    expected = through(epsilon_rule, dense_map(model.linear, (5,)), x, 2 * h * seed / stabilize(2 * h))
    assert_relevance(explained(model, (x,), seed), expected)


def test_in_place_change_of_a_view_is_seen_or_refused() -> None:
    """The first two elements of h grow by 1, through a slice of it: never the answer of a model without that."""

    class View(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = randomize(nn.Linear(5, 5))

        def forward(self, x: Tensor) -> Tensor:
            h = self.linear(x)
            h[:, :2].add_(1.0)
            return h

    model, x, seed = View(), random(3, 5), random(3, 5, seed=1)
    h = model.linear(x).detach()
    at_h = torch.cat([(h * seed / stabilize(h + 1))[:, :2], seed[:, 2:]], dim=1)
    try:
        relevance = explained(model, (x,), seed)
    except CaptureError as error:
        assert "in-place" in str(error)
        return
    assert_relevance(relevance, through(epsilon_rule, dense_map(model.linear, (5,)), x, at_h))


def test_input_is_left_alone_by_an_in_place_model() -> None:
    def function(x: Tensor) -> Tensor:
        x.add_(1.0)
        return x

    x = A.clone()
    explain = fxlrp.compile(One(function).eval(), rules="epsilon")
    relevance = explain(x, seed=SEED)
    assert torch.equal(x, A)
    assert_relevance(relevance, A * SEED / stabilize(A + 1))
