"""Skip connections against closed forms, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fxlrp import rules
from helpers import epsilon_with, explained, of_one
from oracles import (
    EPSILON,
    Three,
    assert_relevance,
    dense_map,
    epsilon_rule,
    random,
    randomize,
    stabilize,
    through,
)

A, B, SEED = random(3, 4, 5, seed=1), random(3, 4, 5, seed=2), random(3, 4, 5, seed=3)


class Skip(nn.Module):
    """x + conv(x), written as residual networks write it."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.conv = randomize(nn.Conv2d(2, 2, 3, padding=1), 20)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.conv(x)
        if self.in_place:
            out += identity
            return out
        return out + identity


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("option", [None, rules.Magnitude(), rules.Equal(), rules.Only(0), rules.Only(1)], ids=str)
def test_skip_connection(in_place: bool, option: object) -> None:
    model, x = Skip(in_place), random(2, 2, 4, 4)
    branch = model.conv(x).detach()
    seed = random(2, 2, 4, 4, seed=1)
    to_branch, to_skip = {
        "NoneType": (branch / stabilize(branch + x), x / stabilize(branch + x)),
        "Magnitude": tuple(t.abs() / (branch.abs() + x.abs() + EPSILON) for t in (branch, x)),
        "Equal": (0.5, 0.5),
        "Only": (1.0, 0.0) if option == rules.Only(0) else (0.0, 1.0),
    }[type(option).__name__]
    through_conv = through(epsilon_rule, dense_map(model.conv, (2, 4, 4)), x, seed * to_branch)
    relevance = explained(model, (x,), seed, epsilon_with(*([("add", option)] if option else [])))
    assert_relevance(relevance, seed * to_skip + through_conv)


def test_nested_skips() -> None:
    """h = x + f(x), y = h + g(h), z = x + y: a skip over two skips."""

    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = randomize(nn.Linear(5, 5), 21)
            self.g = randomize(nn.Linear(5, 5), 22)

        def forward(self, x: Tensor) -> Tensor:
            h = x + self.f(x)
            return x + (h + self.g(h))

    model, x, seed = Nested(), random(3, 5), random(3, 5, seed=1)
    f, g = dense_map(model.f, (5,)), dense_map(model.g, (5,))
    f_x = model.f(x).detach()
    h = x + f_x
    g_h = model.g(h).detach()
    y = h + g_h
    at_z = seed / stabilize(x + y)
    at_y = y * at_z / stabilize(y)
    at_h = h * at_y + through(epsilon_rule, g, h, g_h * at_y)
    expected = x * at_z + x * at_h / stabilize(h) + through(epsilon_rule, f, x, f_x * at_h / stabilize(h))
    relevance = explained(model, (x,), seed)
    assert_relevance(relevance, expected)


def test_module_used_twice_in_a_row() -> None:
    """The second call's input is not the first's."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = randomize(nn.Linear(5, 5), 23)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.relu(self.linear(x)))

    model, x, seed = Twice(), random(3, 5), random(3, 5, seed=1)
    m = dense_map(model.linear, (5,))
    h = model.linear(x).detach().clamp(min=0)
    expected = through(epsilon_rule, m, x, through(epsilon_rule, m, h, seed))
    assert_relevance(explained(model, (x,), seed), expected)


def test_module_used_on_two_inputs() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = randomize(nn.Linear(5, 4), 24)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.linear(a) - self.linear(b)

    model, a, b, seed = Shared(), random(3, 5), random(3, 5, seed=1), random(3, 4, seed=2)
    m = dense_map(model.linear, (5,))
    l_a, l_b = model.linear(a).detach(), model.linear(b).detach()
    ratio = seed / stabilize(l_a - l_b)
    found = explained(model, (a, b), seed)
    assert_relevance(found[0], through(epsilon_rule, m, a, l_a * ratio))
    assert_relevance(found[1], through(epsilon_rule, m, b, -l_b * ratio))


def test_input_that_is_not_used_gets_nothing() -> None:
    found = explained(Three(lambda a, b, c: a + c), (A, B, A), SEED)
    assert_relevance(found[0], A * SEED / stabilize(2 * A))
    assert_relevance(found[1], torch.zeros_like(B))
    assert_relevance(found[2], A * SEED / stabilize(2 * A))


def test_branch_that_is_not_used_takes_nothing() -> None:
    def function(x: Tensor) -> Tensor:
        unused = torch.sigmoid(x) * x + 3
        unused.relu()
        return x + 1

    assert_relevance(of_one(function, A, SEED), A * SEED / stabilize(A + 1))
