"""Softmax against its Taylor expansion, in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import transformer_oracles as oracle
from fxlrp import rules
from helpers import Function, assert_close, epsilon_with, of_one
from oracles import random, stabilize
from transformer_oracles import by_jacobian
from transformer_parts import SEED, X

MASK = torch.tensor([[True, False, True, True, False, True], [True] * 6, [True] + [False] * 5])


def test_formula_of_softmax_is_input_times_its_jacobian() -> None:
    """x * J^T(R / y), the first-order Taylor expansion."""
    _, back = oracle.softmax(X)
    torch.testing.assert_close(back(SEED), by_jacobian(lambda x: torch.softmax(x, -1), X, SEED, 0.0))


@pytest.mark.parametrize("dim", [-1, 1, 0])
@pytest.mark.parametrize(
    "function",
    [
        lambda x, dim: torch.softmax(x, dim),
        lambda x, dim: F.softmax(x, dim=dim),
        lambda x, dim: x.softmax(dim=dim),
        lambda x, dim: nn.Softmax(dim=dim)(x),
        lambda x, dim: F.softmax(x, dim=dim, dtype=torch.float64),
    ],
    ids=["torch", "functional", "method", "module", "dtype"],
)
def test_softmax(function: Function, dim: int) -> None:
    assert_close(of_one(lambda x: function(x, dim), X, SEED), oracle.softmax(X, dim)[1](SEED))


def test_softmax_in_another_type() -> None:
    """Computed in double precision for a single precision input: the relevance has the input's type."""
    x = X.float()
    relevance = of_one(lambda x: F.softmax(x, dim=-1, dtype=torch.float64), x, SEED)
    torch.testing.assert_close(relevance, oracle.softmax(x.double())[1](SEED).float())


def test_softmax_cast_back() -> None:
    x, seed = X.float(), SEED.float()
    relevance = of_one(lambda x: F.softmax(x, dim=-1, dtype=torch.float64).to(x.dtype), x, seed)
    torch.testing.assert_close(relevance, oracle.softmax(x.double())[1](seed.double()).float())


def test_softmax_of_one_element() -> None:
    """The weight is 1 whatever the score: nothing is left for it."""
    assert_close(
        of_one(lambda x: torch.softmax(x, -1), X[..., :1], SEED[..., :1]), torch.zeros(2, 3, 1, dtype=torch.float64)
    )


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.masked_fill(~MASK, -math.inf).softmax(-1),
        lambda x: x.masked_fill(~MASK, float("-inf")).softmax(-1),
        lambda x: torch.where(MASK, x, -math.inf).softmax(-1),
        lambda x: torch.where(MASK, x, torch.full_like(x, -math.inf)).softmax(-1),
        lambda x: x.masked_fill(~MASK, torch.finfo(x.dtype).min).softmax(-1),
        lambda x: x.masked_fill_(~MASK, -1e9).softmax(-1),
    ],
    ids=["masked_fill", "float", "where", "where full_like", "finfo", "masked_fill_"],
)
def test_masked_softmax(function: Function) -> None:
    """Positions that the mask fills get nothing, and nothing is NaN."""
    expected = oracle.softmax(X.masked_fill(~MASK, -math.inf))[1](SEED)
    relevance = of_one(function, X, SEED)
    assert bool((relevance[:, ~MASK] == 0).all())
    assert_close(relevance, expected)


def test_softmax_of_scores_plus_a_mask() -> None:
    """The mask is a term of the sum, at -inf too."""
    mask = torch.where(MASK, random(3, 6, seed=5), torch.full((3, 6), -math.inf, dtype=torch.float64))
    at_sum = oracle.softmax(X + mask)[1](SEED)
    assert_close(of_one(lambda x: (x + mask).softmax(-1), X, SEED), X * at_sum / stabilize(X + mask))


def test_constant_softmax() -> None:
    for rule_set in ("cplrp", epsilon_with(("softmax", rules.Constant()))):
        assert_close(of_one(lambda x: torch.softmax(x, -1), X, SEED, rule_set), torch.zeros_like(X))
