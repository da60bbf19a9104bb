"""Relevance has the type of its input, whatever type the model computes in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import presets, rules


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(1), nn.Linear(4 * 36, 5)).eval()


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(1), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 5)).eval()


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids).cumsum(1))


def in_double(*_: Any, relevance: Tensor, **__: Any) -> Tensor:
    return relevance.double().new_ones(2, 3, 8, 8)


PRESETS = {
    "epsilon": presets.epsilon(),
    "epsilon_plus_flat": presets.epsilon_plus_flat(),
    "epsilon_gamma_box": presets.epsilon_gamma_box(0.0, 1.0),
    "epsilon_alpha2_beta1": presets.epsilon_alpha2_beta1(),
    "wsquare": presets.epsilon().override([(rules.FirstLayer(), rules.WSquare())]),
}


@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "plain"])
@pytest.mark.parametrize("make", [convolutional, dense])
@pytest.mark.parametrize("preset", PRESETS)
def test_under_autocast(preset: str, make: Any, optimize: bool) -> None:
    explain = fxlrp.compile(make(), PRESETS[preset], optimize=optimize)
    x = torch.rand(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            relevance = explain(x.to(dtype), target=1)
            assert relevance.dtype == dtype and relevance.isfinite().all()


@pytest.mark.parametrize("preset", ["epsilon", "attnlrp", "epsilon_plus_flat"])
def test_tokens_have_the_type_of_the_model(preset: str) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 9, (2, 5))
    with torch.autocast("cpu", torch.bfloat16):
        assert fxlrp.compile(Language().eval(), preset)(ids).dtype == torch.float32
    for dtype in (torch.bfloat16, torch.float64):
        assert fxlrp.compile(Language().eval().to(dtype), preset)(ids).dtype == dtype


def test_a_user_defined_rule_may_compute_in_another_type() -> None:
    explain = fxlrp.compile(convolutional(), [("conv2d", rules.Custom(in_double))])
    assert torch.equal(explain(torch.rand(2, 3, 8, 8)), torch.ones(2, 3, 8, 8))
