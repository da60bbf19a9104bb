"""Tokens keep their relevance on the way to a table: the sum over the features of the row that was read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import presets
from fxlrp.relevance.tokens import MapTokens
from helpers import FRONT_ENDS, slow_ones
from oracles import random

TINY = presets.epsilon(1e-14)
TOKENS = torch.tensor([[0, 1, 2], [2, 4, 1]])
TABLE, HEAD = random(20, 4, seed=1), random(4, 2, seed=2)
ONE = torch.ones(1, dtype=torch.long)

WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "long": lambda t: t.long(),
    "int": lambda t: t.int(),
    "short": lambda t: t.short().long(),
    "char": lambda t: t.char().long(),
    "byte": lambda t: t.byte().long(),
    "to type": lambda t: t.to(torch.int32),
    "to type by name": lambda t: t.to(dtype=torch.long),
    "type": lambda t: t.type(torch.int32),
    "name of a type": lambda t: t.type("torch.LongTensor"),
    "to device": lambda t: t.to("cpu"),
    "to device and type": lambda t: t.to("cpu", torch.int32),
    "cpu": lambda t: t.cpu(),
    "type of another": lambda t: t.type_as(ONE),
    "through floats": lambda t: t.float().long(),
    "clamp": lambda t: t.clamp(0, 9),
    "clip": lambda t: t.clip(max=3),
    "clamp_min": lambda t: torch.clamp_min(t, 0),
    "add": lambda t: t + 1,
    "add in place": lambda t: t.clone().add_(1),
    "radd": lambda t: 1 + t,
    "sub": lambda t: t - 0,
    "rsub": lambda t: 5 - t,
    "offsets": lambda t: t + torch.tensor([0, 5, 10]),
    "offsets of sizes": lambda t: t + torch.arange(t.shape[1]) * 5,
    "multiple": lambda t: 2 * t,
    "where": lambda t: torch.where(t == 2, 0, t),
    "where, the other way round": lambda t: torch.where(t != 2, t, 0),
    "where, as a method": lambda t: t.where(t < 2, ONE),
    "masked_fill": lambda t: t.masked_fill((t == 2) | (t > 9), 7),
    "clone": lambda t: t.clone().contiguous().detach(),
    "several": lambda t: (t.to("cpu").int() + 3).clamp(0, 19).long().flatten().view(2, 3),
}


class Reads(nn.Module):
    def __init__(self, way: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.way, self.embedding, self.head = way, nn.Embedding.from_pretrained(TABLE), nn.Parameter(HEAD)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embedding(self.way(tokens)).sum(1) @ self.head


def relevance_of(way: Callable[[Tensor], Tensor], capture: Any, **options: Any) -> Tensor:
    explain = fxlrp.compile(Reads(way).eval(), TINY, example_inputs=TOKENS, capture=capture, **options)
    relevance = explain(TOKENS, target=1)
    assert isinstance(relevance, Tensor) and relevance.dtype == torch.float64
    return relevance


def shares(way: Callable[[Tensor], Tensor]) -> Tensor:
    """What each row that is read adds to the output."""
    return TABLE[way(TOKENS).long()] @ HEAD[:, 1]


@pytest.mark.parametrize("capture", ["symbolic", *slow_ones("export")])
@pytest.mark.parametrize("way", WAYS)
def test_relevance_goes_to_the_token_that_selects_the_row(way: str, capture: Any) -> None:
    torch.testing.assert_close(relevance_of(WAYS[way], capture), shares(WAYS[way]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_tokens_that_are_moved_and_mapped(capture: Any) -> None:
    def moved(t: Tensor) -> Tensor:
        return t.flip(1).reshape(3, 2).t().reshape(2, 3)

    def way(t: Tensor) -> Tensor:
        return moved(t.int() + 3).clamp(0, 19).long()

    back = torch.zeros(6, dtype=torch.float64)
    back[moved(torch.arange(6).reshape(2, 3)).flatten()] = shares(way).flatten()
    torch.testing.assert_close(relevance_of(way, capture), back.reshape(2, 3), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_a_token_that_offsets_repeat_gets_the_sum(capture: Any) -> None:
    def way(t: Tensor) -> Tensor:
        return t[:, :1] + torch.tensor([0, 5, 10])

    found, share = relevance_of(way, capture), shares(way).sum(1)
    torch.testing.assert_close(found[:, 0], share, rtol=1e-9, atol=1e-11)
    assert not found[:, 1:].any()


def test_tokens_that_a_fixed_mask_replaces_have_no_relevance() -> None:
    mask = torch.tensor([[True, False, False], [False, True, False]])

    def way(t: Tensor) -> Tensor:
        return t.masked_fill(mask, 5)

    torch.testing.assert_close(relevance_of(way, "symbolic"), shares(way) * ~mask, rtol=1e-9, atol=1e-11)


def test_rules_of_the_user_do_not_reach_the_arithmetic_of_tokens() -> None:
    pairs = presets.epsilon(1e-14).override([("add", fxlrp.rules.Equal()), ("embedding", fxlrp.rules.PassThrough())])

    class Sum(Reads):
        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embedding(tokens + 1).sum(1)
            return (x + x) @ self.head

    explain = fxlrp.compile(Sum(WAYS["add"]).eval(), pairs, example_inputs=TOKENS)
    torch.testing.assert_close(explain(TOKENS, target=1), 2 * shares(WAYS["add"]), rtol=1e-9, atol=1e-11)


def test_the_table_says_that_tokens_are_mapped() -> None:
    explain = fxlrp.compile(Reads(lambda t: (t + 1).clamp(0, 9)).eval(), example_inputs=TOKENS)
    (line,) = (line for line in str(explain).splitlines() if " add " in line)
    assert str(MapTokens()) in line and "mapped one to one" in line


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_relevance_has_the_type_of_the_table(dtype: torch.dtype) -> None:
    model = Reads(lambda t: t.float().long() + 1).to(dtype).eval()
    assert fxlrp.compile(model, example_inputs=TOKENS)(TOKENS, target=1).dtype == dtype


def test_tokens_that_no_relevance_reaches_have_zeros_of_the_type_of_the_output() -> None:
    class Gated(Reads):
        def forward(self, tokens: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
            return x * torch.sigmoid(self.embedding(tokens).sum(1))

    x = random(2, 4, seed=3)
    found = fxlrp.compile(Gated(WAYS["long"]).eval(), example_inputs=(TOKENS, x))(TOKENS, x, target=1)
    assert found["tokens"].dtype == torch.float64 and not found["tokens"].any()
    assert found["x"][:, 1].all()
