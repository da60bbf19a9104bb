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
