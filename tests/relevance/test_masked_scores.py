"""Scores that a model masks with minus infinity receive no relevance, and no NaN on the way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import presets
from oracles import assert_relevance, random

MASK = torch.tensor([False, True, False, False])


class Masked(nn.Module):
    """Masked scores, to which a bias that depends on the input is added."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scores, self.bias = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.mask = nn.Buffer(MASK)

    def forward(self, x: Tensor) -> Tensor:
        masked = self.scores(x).masked_fill(self.mask, -math.inf)
        return (masked + self.bias(x)).softmax(-1)


@pytest.mark.parametrize("optimize", [True, False])
def test_the_relevance_of_masked_scores_is_zero(optimize: bool) -> None:
    model, x = Masked().double().eval(), random(2, 4)
    rules = presets.attnlrp(0.0)
    relevance = fxlrp.compile(model, rules, at="masked_fill", optimize=optimize)(x, target=0)
    with torch.no_grad():
        scores = model.scores(x).masked_fill(MASK, -math.inf)
        probabilities = model(x)
    # The Taylor rule of softmax, R_s = s (R - p sum(R)), shared by masked scores and bias in proportion.
    received = nn.functional.one_hot(torch.zeros(2, dtype=torch.long), 4) * probabilities
    expected = scores * (received - probabilities * received.sum(-1, keepdim=True))
    assert_relevance(relevance, expected.masked_fill(MASK, 0.0), 1e-12)


def test_every_node_of_a_balance_is_finite() -> None:
    model, x = Masked().double().eval(), random(2, 4)
    balance = fxlrp.compile(model, presets.attnlrp(1e-12), example_inputs=x).balance(x, target=0)
    assert all(math.isfinite(node.received) and math.isfinite(node.passed_on) for node in balance.nodes)
    assert "masked_fill" in {node.node for node in balance.nodes}


EPSILON = 1e-5


class Added(nn.Module):
    """Capped scores, to which a model adds minus infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Buffer(torch.zeros(4).masked_fill(MASK, -math.inf))

    def forward(self, x: Tensor) -> Tensor:
        return (x.tanh() + self.mask).softmax(-1) @ x


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_sum_with_minus_infinity(dtype: torch.dtype, optimize: bool) -> None:
    model, x, seed = Added().to(dtype).eval(), random(3, 4, 4).to(dtype), random(3, 4, 4, seed=1).to(dtype)
    relevance = fxlrp.compile(model, presets.attnlrp(EPSILON), optimize=optimize)(x, seed=seed)
    # By hand: LRP-epsilon of the product, half to each factor, x * J^T C of the softmax for its relevance p * C, and
    # LRP-epsilon of the sum.
    score = x.double().tanh()
    p = score.masked_fill(MASK, -math.inf).softmax(-1)
    out = p @ x.double()
    u = seed.double() / (2 * out + EPSILON * out.sign())
    c = u @ x.double().mT
    of_scores = score * p * (c - (p * c).sum(-1, keepdim=True)) * score.abs() / (score.abs() + EPSILON)
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 0.01, torch.bfloat16: 0.1}[dtype]
    assert_relevance(relevance.double(), of_scores + x.double() * (p.mT @ u), tolerance)
