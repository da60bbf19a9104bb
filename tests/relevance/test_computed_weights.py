"""Layers whose weights are computed from an input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from fxlrp import presets
from helpers import FRONT_ENDS, assert_close, of_one, of_two
from oracles import assert_relevance, random

A, B = random(2, 4), random(3, 4, seed=1)
SEED = random(2, 3, seed=2)


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_a_dense_layer_shares_with_its_weight(capture: str) -> None:
    """As the product of two values does, which it is."""
    for bias in (None, random(3, seed=3)):
        product = of_two(lambda a, b, c=bias: a @ b.T if c is None else a @ b.T + c, A, B, SEED, capture=capture)
        assert_close(of_two(lambda a, b, c=bias: F.linear(a, b, c), A, B, SEED, capture=capture), product)
    of_vector = of_two(lambda a, b: F.linear(a, b[0]), A, B, SEED[:, 0], capture=capture)
    assert_close(of_vector, of_two(lambda a, b: a @ b[0], A, B, SEED[:, 0], capture=capture))


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_the_weight_takes_all_from_a_constant(capture: str) -> None:
    """LRP-0 is the gradient times the input."""
    leaf = B.clone().requires_grad_()
    out = F.linear(A, leaf)
    (gradient,) = torch.autograd.grad(out, leaf, SEED / out.detach())
    found = of_one(lambda b: F.linear(A, b), B, SEED, presets.epsilon(0.0), capture=capture)
    assert_relevance(found, B * gradient)


class Declared(nn.Module):
    """A dense layer whose weight is an input that is declared a constant."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, 2 * weight)


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_a_weight_that_is_declared_a_constant_remains_a_weight(capture: Any) -> None:
    explain = fxlrp.compile(
        Declared().eval(), "epsilon_plus", example_inputs=(A, B), constants=["weight"], capture=capture
    )
    operations = {each.operation for each in explain.balance(A, B).nodes}
    assert "linear" in operations and "matmul" not in operations


TABLES: dict[str, Callable[[Tensor], Tensor]] = {
    "embedding": lambda table: F.embedding(torch.tensor([[0, 2], [2, 1]]), table),
    "embedding_bag": lambda table: F.embedding_bag(torch.tensor([[0, 2], [2, 1]]), table, mode="sum"),
    "mean, offsets": lambda table: F.embedding_bag(torch.tensor([0, 2, 2, 1]), table, torch.tensor([0, 3])),
    "padding": lambda table: F.embedding_bag(torch.tensor([[0, 2], [2, 1]]), table, mode="sum", padding_idx=2),
    "largest": lambda table: F.embedding_bag(torch.tensor([[0, 2], [2, 1]]), table, mode="max"),
}


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("name", TABLES)
def test_a_computed_table(name: str, capture: str) -> None:
    """Relevance returns to the rows that the tokens select: LRP-0 is the gradient times the input."""

    def function(x: Tensor) -> Tensor:
        return TABLES[name](x.relu())

    x = random(3, 4, seed=4)
    leaf = x.clone().requires_grad_()
    out = function(leaf)
    u = random(*out.shape, seed=5)
    (gradient,) = torch.autograd.grad(out, leaf, u)
    assert_relevance(of_one(function, x, out.detach() * u, presets.epsilon(0.0), capture=capture), x * gradient)
