"""Gamma with `bias=False`: whose sign selects the half of the rule. The numbers are zennit's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import zoo  # noqa: F401 - before zennit: it makes torchvision importable
from fxlrp import rules

# isort: split
from zennit.rules import Gamma as ZennitGamma


def layer() -> tuple[nn.Linear, Tensor]:
    """z = 1 - 3 + 3 = 1 with the bias, and -2 without it."""
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -3.0]]))
        model.bias.fill_(3.0)
    return model.eval(), torch.ones(1, 2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # z > 0: w + gamma w+ = [2, -3], and the denominator is 2 - 3 = -1, as in zennit with zero_params="bias".
        ({}, [-2.0, 3.0]),
        # z < 0: w + gamma w- = [1, -6], and the denominator is 1 - 6 = -5.
        ({"bias_in_sign": False}, [-0.2, 1.2]),
    ],
)
@pytest.mark.parametrize("optimize", [True, False])
def test_by_hand(options: dict[str, bool], expected: list[float], optimize: bool) -> None:
    model, x = layer()
    rule = rules.Gamma(gamma=1.0, stabilizer=0.0, bias=False, **options)
    relevance = fxlrp.compile(model, [("linear", rule)], optimize=optimize)(x)
    torch.testing.assert_close(relevance, torch.tensor([expected]))


def test_as_zennit() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 5).eval()
    x, seed = torch.randn(4, 6), torch.randn(4, 5)
    hooked = ZennitGamma(gamma=0.5, stabilizer=1e-9, zero_params="bias")
    handles = hooked.register(model)
    leaf = x.clone().requires_grad_()
    model(leaf).backward(seed)
    handles.remove()
    explain = fxlrp.compile(model, [("linear", rules.Gamma(0.5, stabilizer=1e-9, bias=False))])
    torch.testing.assert_close(explain(x, seed=seed), leaf.grad, rtol=1e-4, atol=1e-4)


def test_the_default_is_not_shown() -> None:
    assert str(rules.Gamma(0.5, bias=False)) == "Gamma(gamma=0.5, bias=False)"
    assert str(rules.Gamma(0.5, bias=False, bias_in_sign=False)) == "Gamma(gamma=0.5, bias=False, bias_in_sign=False)"
