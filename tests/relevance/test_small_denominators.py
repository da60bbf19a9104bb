"""Half precision: no denominator is so small that relevance over it overflows, and none else changes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.rules import AlphaBeta, ClippedEpsilon, Epsilon, Gamma, Rule, ZPlus

HALF = torch.float16
TINY = torch.finfo(HALF).tiny
RULES: list[Rule] = [Epsilon(1e-6), Epsilon(1e-5), ClippedEpsilon(1e-6), Gamma(0.25, 1e-6), ZPlus(1e-6), AlphaBeta()]


def layer(weights: list[float], dtype: torch.dtype = HALF) -> nn.Linear:
    model = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([weights]))
    return model.to(dtype).eval()


def explained(rule: Rule, weights: list[float], x: Tensor, r: float) -> Tensor:
    explain = fxlrp.compile(layer(weights, x.dtype), [("*", rule)])
    return explain(x, seed=torch.full((1, 1), r, dtype=x.dtype))


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("size", [1.0, 2.0**-20])
def test_sums_of_zero_and_subnormal_sums(rule: Rule, size: float) -> None:
    """Contributions that cancel, and contributions that are subnormal themselves, each with relevance 1."""
    for weights in ([1.0, -1.0], [1.0, 0.0], [-1.0, 0.0]):
        assert explained(rule, weights, torch.full((1, 2), size, dtype=HALF), 1.0).isfinite().all()


@pytest.mark.parametrize("epsilon", [1e-7, 1e-6, 1e-5])
def test_the_denominator_is_at_least_the_smallest_normal_number(epsilon: float) -> None:
    x = torch.ones(1, 2, dtype=HALF)
    expected = torch.tensor([[1.0, -1.0]]) / TINY
    torch.testing.assert_close(explained(Epsilon(epsilon), [1.0, -1.0], x, 1.0).float(), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("rule", [Epsilon(1e-6), ClippedEpsilon(1e-6)], ids=str)
def test_sums_that_are_larger_have_the_epsilon_that_was_given(rule: Rule) -> None:
    x = torch.tensor([[2e-3, -1.0e-3]], dtype=HALF)
    found = explained(rule, [1.0, 1.0], x, 0.5).double()
    torch.testing.assert_close(found, explained(rule, [1.0, 1.0], x.double(), 0.5), rtol=2e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types_with_more_range_divide_by_epsilon(dtype: torch.dtype) -> None:
    found = explained(Epsilon(1e-6), [1.0, -1.0], torch.ones(1, 2, dtype=dtype), 1.0).double()
    torch.testing.assert_close(found, torch.tensor([[1e6, -1e6]], dtype=torch.float64), rtol=1e-2, atol=0)


def test_lrp_0_where_subnormal_numbers_count_as_zero() -> None:
    """The smallest number of double precision is zero there, in PyTorch and in Python."""
    script = """
import torch, fxlrp
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double().eval()
with torch.no_grad():
    model[0].bias[:2] = -9
x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
(gradient,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
assert torch.set_flush_denormal(True)
found = fxlrp.compile(model, fxlrp.presets.epsilon(0.0))(x.detach(), target=1)
torch.testing.assert_close(found, x * gradient)
"""
    # In a process of its own: the mode belongs to a thread, and cannot be read.
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
