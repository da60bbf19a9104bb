"""Relevance of norms and deviations, in proportion to powers of the elements."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fxlrp
from fxlrp import presets
from oracles import One, assert_relevance, random

X = random(2, 4, 6)


def deviations(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


# The statistic, the elements whose powers divide the relevance, and the power.
STATISTICS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], float]] = {
    "var": (lambda x: x.var(-1), deviations, 2),
    "std": (lambda x: x.std(-1, correction=0), deviations, 2),
    "norm": (lambda x: x.norm(dim=-1), torch.abs, 2),
    "norm of order 1": (lambda x: torch.linalg.vector_norm(x, 1, -1), torch.abs, 1),
    "norm of order 3": (lambda x: torch.linalg.vector_norm(x, 3, -1), torch.abs, 3),
    "norm of order 0.5": (lambda x: torch.linalg.vector_norm(x, 0.5, -1), torch.abs, 0.5),
}


@pytest.mark.parametrize("epsilon", [0.0, 0.2])
@pytest.mark.parametrize("name", STATISTICS)
def test_relevance_is_divided_by_powers(name: str, epsilon: float) -> None:
    statistic, elements, power = STATISTICS[name]
    r = random(2, 4, seed=5)
    powers = elements(X).abs() ** power
    expected = powers / (powers.sum(-1, keepdim=True) + epsilon) * r[..., None]
    explain = fxlrp.compile(One(statistic).eval(), presets.epsilon(epsilon))
    assert_relevance(explain(X, seed=r), expected, 1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
@pytest.mark.parametrize("name", STATISTICS)
def test_elements_that_are_all_zero_have_no_relevance(name: str, epsilon: float) -> None:
    explain = fxlrp.compile(One(STATISTICS[name][0]).eval(), presets.epsilon(epsilon))
    found = explain(torch.zeros_like(X), seed=torch.ones(2, 4, dtype=torch.float64))
    assert isinstance(found, Tensor) and not found.any()


@pytest.mark.parametrize(
    ("name", "dtype", "size", "tolerance"),
    [
        ("std", torch.float32, 1e22, 1e-5),
        *((name, torch.float16, 400.0, 2e-3) for name in ("std", "norm", "norm of order 1", "norm of order 3")),
    ],
)
def test_powers_do_not_overflow(name: str, dtype: torch.dtype, size: float, tolerance: float) -> None:
    """The statistic is finite, and the sum of powers would not be."""
    statistic, elements, power = STATISTICS[name]
    x = (size * X).to(dtype)
    assert bool(statistic(x).isfinite().all())
    found = fxlrp.compile(One(statistic).eval(), "epsilon")(x, seed=torch.ones_like)
    powers = elements(x.double()).abs() ** power
    assert isinstance(found, Tensor) and found.dtype is dtype
    assert_relevance(found.double(), powers / powers.sum(-1, keepdim=True), tolerance)


@pytest.mark.parametrize("optimize", [True, False])
def test_a_count_is_shared_by_the_elements_that_it_counts(optimize: bool) -> None:
    x = torch.tensor([[0.0, 2.0, -1.0, 3.0], [-1.0, 0.0, 0.0, -1.0]], dtype=torch.float64)
    model = One(lambda x: torch.linalg.vector_norm(x, 0, -1, keepdim=True)).eval()
    explain = fxlrp.compile(model, presets.epsilon(0.0), optimize=optimize)
    expected = torch.tensor([[0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    assert_relevance(explain(x, target=0), expected)
