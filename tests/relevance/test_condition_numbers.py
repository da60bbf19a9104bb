"""The relevance of condition numbers, from autograd on their definition: PyTorch cannot differentiate most of them."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import presets
from oracles import assert_relevance, random


class Condition(nn.Module):
    """The condition number of each matrix."""

    def __init__(self, p: float | str | None) -> None:
        super().__init__()
        self._p = p

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.cond(x, self._p).unsqueeze(1)


def defined(x: Tensor, p: float | str | None) -> Tensor:
    """The norm of each matrix times that of its inverse."""
    p = 2 if p is None else p
    number: Tensor = torch.linalg.matrix_norm(x, p) * torch.linalg.matrix_norm(torch.linalg.inv(x), p)
    return number


@pytest.mark.parametrize("capture", ("symbolic", "export"))
@pytest.mark.parametrize("p", (None, 1, -1, math.inf, "fro", "nuc"))
def test_it_is_gradient_times_input(p: float | str | None, capture: Literal["symbolic", "export"]) -> None:
    x = random(2, 4, 4, seed=2)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(defined(leaf, p).sum(), leaf)
    explain = fxlrp.compile(Condition(p).eval(), presets.gradient(), example_inputs=x, capture=capture)
    assert_relevance(explain(x, target=0), x * gradient, 1e-9)
