"""A derived step that is valid for some sizes only is made again for others, and never gives a wrong number."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fxlrp
from fxlrp.relevance.sizes import OtherSizesError, expect_sizes
from oracles import One, assert_relevance, random

TINY = fxlrp.presets.epsilon(1e-12)


def spectrum(x: Tensor) -> Tensor:
    window = torch.hann_window(8, dtype=x.dtype)
    return torch.stft(x, 8, 4, window=window, return_complex=True).abs()


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x: torch.kron(x, torch.ones(2, 1, dtype=x.dtype)), [(5, 4), (7, 4), (1, 4), (5, 4)]),
        (lambda x: torch.cdist(x, x + x.flip(0)), [(3, 4), (40, 4), (1, 4)]),
        (spectrum, [(2, 40), (3, 40), (2, 56)]),
        (lambda x: torch.fft.irfft(torch.fft.rfft(x)), [(1, 8), (4, 8), (4, 11)]),
        (lambda x: x.quantile(0.3, 1), [(2, 5), (6, 9)]),
    ],
    ids=["kron", "cdist", "stft", "rfft", "quantile"],
)
def test_every_size_gives_gradient_times_input(
    function: Callable[[Tensor], Tensor], shapes: list[tuple[int, ...]]
) -> None:
    explain = fxlrp.compile(One(function).eval(), TINY, example_inputs=random(*shapes[0]))
    for shape in shapes:
        x = random(*shape, seed=3)
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(leaf).sum(), leaf)
        assert_relevance(explain(x, seed=lambda output: output), x * gradient, 1e-8)


def test_a_size_that_does_not_fit_is_an_error_of_the_program() -> None:
    explain = fxlrp.compile(
        One(lambda x: torch.kron(x, torch.ones(2, 1, dtype=x.dtype))).eval(), TINY, example_inputs=random(5, 4)
    )
    with pytest.raises(OtherSizesError, match="kron is valid for arguments of the sizes"):
        explain.graph_module(random(6, 4), None, None)


def test_equal_names_stand_for_equal_sizes() -> None:
    r, square, wide = torch.zeros(1), torch.zeros(3, 3), torch.zeros(3, 4)
    assert expect_sizes(r, [square, 3], [("n0", "n0"), "n0"], [], "f") is r
    assert expect_sizes(r, [wide], [("n0", "n1")], [("<", "n0", "n1"), ("==", ("%", "n1", 2), 0)], "f") is r
    for values, sizes, conditions in (
        ([wide], [("n0", "n0")], []),
        ([square], [("n0", 4)], []),
        ([square], [("n0",)], []),
        ([wide], [("n0", "n1")], [("<=", ("+", "n1", 1), "n0")]),
    ):
        with pytest.raises(OtherSizesError):
            expect_sizes(r, values, sizes, conditions, "f")
