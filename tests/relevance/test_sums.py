"""Sums and differences of two values against closed forms, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fxlrp import rules
from helpers import Function, epsilon_with, of_two
from oracles import (
    EPSILON,
    assert_relevance,
    random,
    stabilize,
)
from transformer_oracles import summed_to

A, B, SEED = random(3, 4, 5, seed=1), random(3, 4, 5, seed=2), random(3, 4, 5, seed=3)


def in_place(a: Tensor, b: Tensor) -> Tensor:
    c = torch.relu(a)
    c += b
    return c


def in_place_method(a: Tensor, b: Tensor) -> Tensor:
    c = torch.relu(a)
    c.add_(b, alpha=2)  # the result is not used: the call is not dead
    return c


def in_place_subtraction(a: Tensor, b: Tensor) -> Tensor:
    c = torch.relu(a)
    c -= b
    return c


SUMS: dict[str, tuple[Function, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]] = {
    "plus": (lambda a, b: a + b, lambda a, b: (a, b)),
    "torch.add": (lambda a, b: torch.add(a, b), lambda a, b: (a, b)),
    "torch.add by name": (lambda a, b: torch.add(input=a, other=b), lambda a, b: (a, b)),
    "method": (lambda a, b: a.add(b), lambda a, b: (a, b)),
    "add alpha": (lambda a, b: torch.add(a, b, alpha=3), lambda a, b: (a, 3 * b)),
    "add negative alpha": (lambda a, b: a.add(b, alpha=-0.5), lambda a, b: (a, -0.5 * b)),
    "plus equals": (in_place, lambda a, b: (a.clamp(min=0), b)),
    "add_ alpha": (in_place_method, lambda a, b: (a.clamp(min=0), 2 * b)),
}
DIFFERENCES: dict[str, tuple[Function, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]] = {
    "minus": (lambda a, b: a - b, lambda a, b: (a, -b)),
    "torch.sub": (lambda a, b: torch.sub(a, b), lambda a, b: (a, -b)),
    "sub alpha": (lambda a, b: torch.sub(a, b, alpha=2), lambda a, b: (a, -2 * b)),
    "rsub": (lambda a, b: torch.rsub(a, b), lambda a, b: (-a, b)),
    "minus equals": (in_place_subtraction, lambda a, b: (a.clamp(min=0), -b)),
}
ALL_SUMS = SUMS | DIFFERENCES


@pytest.mark.parametrize("name", ALL_SUMS)
def test_sum_is_shared_in_proportion(name: str) -> None:
    """R_a = a R / s(a + b)."""
    function, terms = ALL_SUMS[name]
    first, second = terms(A, B)
    ratio = SEED / stabilize(first + second)
    relevance_a, relevance_b = of_two(function, A, B, SEED)
    assert_relevance(relevance_a, first * ratio)
    assert_relevance(relevance_b, second * ratio)


@pytest.mark.parametrize("epsilon", [0.5, 1e-9])
def test_epsilon_of_a_sum(epsilon: float) -> None:
    relevance_a, relevance_b = of_two(lambda a, b: a + b, A, B, SEED, epsilon_with(("add", rules.Epsilon(epsilon))))
    assert_relevance(relevance_a, A * SEED / stabilize(A + B, epsilon))
    assert_relevance(relevance_b, B * SEED / stabilize(A + B, epsilon))


def test_sum_of_exactly_zero() -> None:
    """Two dead ReLUs give 0 + 0: nothing flows, and nothing is NaN, at epsilon 0 too."""
    a, b = -A.abs(), B
    b = torch.where(b > 0.5, b, torch.zeros_like(b))
    for epsilon in (0.0, EPSILON):
        found = of_two(lambda a, b: torch.relu(a) + b, a, b, SEED, epsilon_with(("add", rules.Epsilon(epsilon))))
        assert_relevance(found[0], torch.zeros_like(a))
        assert_relevance(found[1], torch.where(b > 0, b * SEED / (b + epsilon), torch.zeros_like(b)))


@pytest.mark.parametrize("name", SUMS)
def test_sum_by_magnitude(name: str) -> None:
    """R_a = |a| R / s(|a| + |b|)."""
    function, terms = SUMS[name]
    first, second = (t.abs() for t in terms(A, B))
    for option, stabilizer in ((rules.Magnitude(), EPSILON), (rules.Magnitude(stabilizer=0.1), 0.1)):
        relevance_a, relevance_b = of_two(function, A, B, SEED, epsilon_with(("add", option)))
        assert_relevance(relevance_a, first * SEED / stabilize(first + second, stabilizer))
        assert_relevance(relevance_b, second * SEED / stabilize(first + second, stabilizer))


@pytest.mark.parametrize("name", SUMS)
def test_sum_in_equal_parts(name: str) -> None:
    relevance_a, relevance_b = of_two(SUMS[name][0], A, B, SEED, epsilon_with(("add", rules.Equal())))
    assert_relevance(relevance_a, SEED / 2)
    assert_relevance(relevance_b, SEED / 2)


@pytest.mark.parametrize("name", SUMS)
def test_sum_to_one_operand_only(name: str) -> None:
    zero = torch.zeros_like(SEED)
    relevance_a, relevance_b = of_two(SUMS[name][0], A, B, SEED, epsilon_with(("add", rules.Only(operand=0))))
    assert_relevance(relevance_a, SEED)
    assert_relevance(relevance_b, zero)
    relevance_a, relevance_b = of_two(SUMS[name][0], A, B, SEED, epsilon_with(("add", rules.Only(operand=1))))
    assert_relevance(relevance_a, zero)
    assert_relevance(relevance_b, SEED)


@pytest.mark.parametrize("name", DIFFERENCES)
@pytest.mark.parametrize("option", [rules.Magnitude(), rules.Equal(), rules.Only(0)], ids=str)
def test_options_of_a_difference(name: str, option: object) -> None:
    function, terms = DIFFERENCES[name]
    first, second = (t.abs() for t in terms(A, B))
    ratio = SEED / stabilize(first + second)
    expected = {
        "Magnitude": (first * ratio, second * ratio),
        "Equal": (SEED / 2, SEED / 2),
        "Only": (SEED, torch.zeros_like(SEED)),
    }[type(option).__name__]
    if name == "rsub" and isinstance(option, rules.Only):
        option = rules.Only(1)  # torch.rsub(a, b) is b - a
    found = of_two(function, A, B, SEED, epsilon_with(("*", option)))
    assert_relevance(found[0], expected[0])
    assert_relevance(found[1], expected[1])


SHAPES = [
    ((3, 4, 5), (3, 4, 1)),
    ((3, 4, 5), (3, 1, 5)),
    ((3, 1, 5), (3, 4, 1)),
    ((3, 4, 5), (5,)),
    ((4, 1), (3, 1, 5)),
    ((1, 4, 5), (3, 4, 5)),
    ((3, 4, 5), ()),
    ((1, 1, 1), (1, 1)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("option", [None, rules.Magnitude(), rules.Equal(), rules.Only(0), rules.Only(1)], ids=str)
def test_broadcast_operands_get_theirs_summed(shapes: tuple[tuple[int, ...], tuple[int, ...]], option: object) -> None:
    a, b = random(*shapes[0], seed=6), random(*shapes[1], seed=7)
    seed = random(*(a + b).shape, seed=8)
    one, zero = torch.ones_like(seed), torch.zeros_like(seed)
    weights = {
        "NoneType": (a / stabilize(a + b), b / stabilize(a + b)),
        "Magnitude": (a.abs() / (a.abs() + b.abs() + EPSILON), b.abs() / (a.abs() + b.abs() + EPSILON)),
        "Equal": (one / 2, one / 2),
        "Only": (one, zero) if option == rules.Only(0) else (zero, one),
    }[type(option).__name__]
    found = of_two(lambda a, b: a + b, a, b, seed, epsilon_with(*([("add", option)] if option else [])))
    assert_relevance(found[0], summed_to(weights[0] * seed, a.shape))
    assert_relevance(found[1], summed_to(weights[1] * seed, b.shape))
