"""The numbers of the notebook that started the project.

A 3x3 convolution with padding 1 on a 4x4 input, output relevance 1.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import rules

LRP_0 = rules.Epsilon(epsilon=0.0)
Z_RULES = [LRP_0, rules.Epsilon()]


class Branch(nn.Module):
    """conv(x), or conv(x) + x."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        nn.init.ones_(self.conv.weight)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + x if self.skip else self.conv(x)


def image(*rows: list[float]) -> Tensor:
    return torch.tensor(rows).reshape(1, 1, 4, 4)


ONES = image(*[[1.0] * 4] * 4)
SIGNED = image(*[[-1.0, -1.0, 1.0, 1.0]] * 4)


def relevance_of(x: Tensor, skip: bool, rule: rules.Epsilon) -> Tensor:
    explain = fxlrp.compile(Branch(skip).eval(), rules=[(nn.Conv2d, rule)])
    return explain(x, seed=torch.ones_like(x))


def same_to_4_decimals(actual: Tensor, expected: Tensor) -> bool:
    return actual.shape == expected.shape and float((actual - expected).abs().max()) <= 0.6e-4


@pytest.mark.parametrize("rule", Z_RULES)
def test_signed_input(rule: rules.Epsilon) -> None:
    outer, inner = [1.25, 0.4167, 0.4167, 1.25], [1.75, 0.5833, 0.5833, 1.75]
    relevance = relevance_of(SIGNED, skip=False, rule=rule)
    assert same_to_4_decimals(relevance, image(outer, inner, inner, outer))


@pytest.mark.parametrize("rule", Z_RULES)
def test_input_of_ones(rule: rules.Epsilon) -> None:
    outer, inner = [0.6944, 0.9722, 0.9722, 0.6944], [0.9722, 1.3611, 1.3611, 0.9722]
    relevance = relevance_of(ONES, skip=False, rule=rule)
    assert same_to_4_decimals(relevance, image(outer, inner, inner, outer))
    assert relevance.sum().item() == pytest.approx(16.0, abs=1e-3)


@pytest.mark.parametrize("rule", Z_RULES)
def test_skip_connection_shares(rule: rules.Epsilon) -> None:
    """16 units come in and 16 go out; accumulating gradients makes 32 (1.6944, 1.9722, ...).

    An output above n ones is n + 1, so it gives 1 / (n + 1) to each of the n through the convolution and as
    much to its own pixel through the skip; n is 4 at a corner, 6 at an edge, 9 inside.
    """
    corner = 1 / 5 + (1 / 5 + 2 / 7 + 1 / 10)
    edge = 1 / 7 + (1 / 5 + 3 / 7 + 2 / 10)
    inside = 1 / 10 + (1 / 5 + 4 / 7 + 4 / 10)
    outer, inner = [corner, edge, edge, corner], [edge, inside, inside, edge]
    relevance = relevance_of(ONES, skip=True, rule=rule)
    assert same_to_4_decimals(relevance, image(outer, inner, inner, outer))
    assert relevance.sum().item() == pytest.approx(16.0, abs=1e-3)


def test_skip_connection_shares_signed_input() -> None:
    """Each output gives in proportion: x / total to each pixel below it, once more to its own by the skip."""
    relevance = relevance_of(SIGNED, skip=True, rule=LRP_0)
    x = SIGNED[0, 0]
    expected = torch.zeros(4, 4)
    for i in range(4):
        for j in range(4):
            near = [(a, b) for a in range(i - 1, i + 2) for b in range(j - 1, j + 2) if 0 <= a < 4 and 0 <= b < 4]
            total = sum(float(x[p]) for p in near) + float(x[i, j])
            for p in [*near, (i, j)]:
                expected[p] += float(x[p]) / total
    assert same_to_4_decimals(relevance, expected.reshape(1, 1, 4, 4))
    assert relevance.sum().item() == pytest.approx(16.0, abs=1e-3)
