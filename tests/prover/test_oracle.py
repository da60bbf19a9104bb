"""The oracle of random models, on models for which the relevance is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from oracles import assert_relevance, random
from prover.oracle import Book, NotDefinedError, relevance_of


class BroadcastTwice(nn.Module):
    """Both results of broadcasting a value, which is one of them, and a part of it."""

    def __init__(self, *, of_aten: bool) -> None:
        super().__init__()
        self._of_aten, self._head = of_aten, nn.Linear(12, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        whole = x * 2
        both = [whole[:, :1], whole]
        found = torch.ops.aten.broadcast_tensors(both) if self._of_aten else torch.broadcast_tensors(*both)
        out: Tensor = self._head(torch.cat(found, 1))
        return out


@pytest.mark.parametrize("of_aten", [False, True])
def test_a_result_that_is_an_operand_keeps_the_others(of_aten: bool) -> None:
    """The model is linear without a bias: LRP-0 is gradient times input."""
    model, x = BroadcastTwice(of_aten=of_aten).double().eval(), random(2, 6)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    for is_constant in (False, True):
        found = relevance_of(model, x, 1, Book(weights_are_constant=is_constant))
        assert_relevance(found, x * gradient, 1e-9)


class Overwritten(nn.Module):
    """The relevance of the elements that are replaced is lost."""

    def forward(self, x: Tensor) -> Tensor:
        out = x.clone()
        out[:, 0] = 1.0
        return out


def test_a_change_in_place_is_not_defined() -> None:
    with pytest.raises(NotDefinedError, match="in place"):
        relevance_of(Overwritten(), random(2, 6), 1, Book(weights_are_constant=False))
