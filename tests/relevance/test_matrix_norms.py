"""Norms of matrices by their singular values, whose gradient looks for the value among all of them."""

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from oracles import assert_relevance, random


class Norm(nn.Module):
    def __init__(self, order: int | str) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        norms: Tensor = torch.linalg.matrix_norm(x, self.order)
        return norms[:, None]


@pytest.mark.parametrize("order", [2, -2, 1, -1, "nuc"])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)], ids=str)
def test_lrp_0_is_gradient_times_input(order: int | str, shape: tuple[int, int]) -> None:
    x = random(3, *shape, seed=1)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Norm(order)(leaf).sum(), leaf)
    assert_relevance(fxlrp.compile(Norm(order).eval(), fxlrp.presets.epsilon(0.0))(x, target=0), x * gradient)
