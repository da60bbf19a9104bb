"""The quotient ``C * base / s(z)`` behind an activation, and in whose memory it is computed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
from fxlrp.functions import repeat_heads
from fxlrp.relevance.element_relevance import repeat_heads_relevance
from fxlrp.relevance.quotients import (
    rescale,
    rescale_,
    rescale_in_two_,
    rescale_positive,
    rescale_positive_,
    rescale_positive_in_two_,
    share_of_value,
    share_of_value_,
    share_of_value_in_two_,
)
from oracles import assert_relevance, random

OF_ANY_SIGN = (rescale, rescale_, rescale_in_two_)
OF_ONE_SIGN = (rescale_positive, rescale_positive_, rescale_positive_in_two_)


def by_hand(factor: Tensor, base: Tensor, z: Tensor, epsilon: float) -> Tensor:
    sign = torch.where(torch.signbit(z), -1.0, 1.0).to(z.dtype)
    divisor = z + epsilon * sign
    return factor * base / torch.where(divisor == 0, torch.ones_like(divisor), divisor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("epsilon", [0.1, 1e-6, 0.0])
@pytest.mark.parametrize("form", [share_of_value, share_of_value_, share_of_value_in_two_])
def test_every_form_divides_alike(form: object, epsilon: float, dtype: torch.dtype) -> None:
    z = torch.tensor([-2.0, -1e-3, -0.0, 0.0, 1e-3, 3.0], dtype=dtype)
    base, factor = F.gelu(z.double()).to(dtype), torch.tensor([1.0, -2.0, 3.0, 4.0, -5.0, 6.0], dtype=dtype)
    expected = by_hand(factor.double(), base.double(), z.double(), epsilon)
    assert callable(form)
    kept = z.clone()
    actual = form(factor.clone(), base.clone(), z, epsilon)
    assert actual.dtype == dtype
    assert torch.equal(z, kept)
    assert_relevance(actual.double(), expected, 1e-12 if dtype == torch.float64 else 4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("epsilon", [0.1, 1e-6, 0.0])
@pytest.mark.parametrize("form", [*OF_ANY_SIGN, *OF_ONE_SIGN])
def test_every_form_rescales_alike(form: Any, epsilon: float, dtype: torch.dtype) -> None:
    """What is below the resolution of half precision keeps its quotient where it is zero."""
    z = torch.tensor([-2.0, -1e-3, 1e-3, 3.0, 0.0], dtype=dtype)
    z = z if form in OF_ANY_SIGN else z.abs()
    factor = torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0], dtype=dtype)
    expected = by_hand(factor.double(), z.double(), z.double(), epsilon)
    rounds_to_zero = form in OF_ANY_SIGN and dtype == torch.bfloat16 and epsilon < torch.finfo(dtype).eps
    expected[-1] = 5.0 if rounds_to_zero else 0.0
    actual = form(factor.clone(), z.clone(), epsilon)
    assert actual.dtype == dtype
    assert_relevance(actual.double(), expected, 1e-12 if dtype == torch.float64 else 4 * torch.finfo(dtype).eps)


def test_a_step_whose_value_is_not_read_again_needs_no_third_buffer() -> None:
    """Behind a product there is a quotient, and behind a ReLU one of a value that is not negative."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    x, seed = random(5, 4, seed=1), random(5, 3, seed=2)
    explain = fxlrp.compile(model, rules="epsilon")
    targets = [node.target for node in explain.graph_module.graph.nodes]
    assert targets.count(rescale_in_two_) == targets.count(rescale_positive_in_two_) == 1
    plain = fxlrp.compile(model, rules="epsilon", optimize=False)
    assert_relevance(explain(x, seed=seed), plain(x, seed=seed))


def test_a_step_behind_an_activation_needs_no_third_buffer() -> None:
    width = 64
    layers = nn.Linear(4, width, bias=False), nn.GELU(), nn.Linear(width, 3, bias=False)
    model = nn.Sequential(*layers).double().eval()
    x, seed = random(5, 4, seed=1), random(5, 3, seed=2)
    explain = fxlrp.compile(model, rules="epsilon")
    relevance = explain(x, seed=seed)
    targets = [node.target for node in explain.graph_module.graph.nodes]
    assert targets.count(share_of_value_in_two_) == 1

    first, second = (layer.weight.detach() for layer in (layers[0], layers[2]))
    assert isinstance(first, Tensor) and isinstance(second, Tensor)
    z = x @ first.T
    a = F.gelu(z)
    u = seed / (a @ second.T + 1e-6 * (a @ second.T).sign())
    expected = x * ((a * (u @ second) / (z + 1e-6 * z.sign())) @ first)
    assert_relevance(relevance, expected)


def test_a_value_that_is_read_later_is_not_overwritten() -> None:
    class TwoReaders(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = F.gelu(self.first(x))
            out: Tensor = self.third(self.second(hidden) * hidden + hidden)
            return out

    model = TwoReaders().double().eval()
    x, seed = random(5, 4, seed=1), random(5, 3, seed=2)
    plain = fxlrp.compile(model, rules="epsilon", optimize=False)(x, seed=seed)
    for _ in range(2):
        assert_relevance(fxlrp.compile(model, rules="epsilon")(x, seed=seed), plain)


def test_equal_numbers_of_heads_are_not_copied() -> None:
    keys, queries = random(2, 4, 3, 5, seed=1), random(2, 4, 3, 5, seed=2)
    assert repeat_heads(keys, queries).data_ptr() == keys.data_ptr()
    assert repeat_heads_relevance(keys, queries) is queries
    assert torch.equal(repeat_heads(keys[:, :2], queries), keys[:, [0, 0, 1, 1]])
    summed = queries.unflatten(1, (2, 2)).sum(2)
    assert_relevance(repeat_heads_relevance(keys[:, :2], queries), summed)
