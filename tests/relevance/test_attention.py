"""Scaled dot product attention against its closed form, in every spelling; in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import transformer_oracles as oracle
from helpers import FRONT_ENDS, Function, assert_close, explained, of_one, of_three, one_in
from oracles import random, stabilize
from transformer_oracles import CONVENTIONS
from transformer_parts import ATTENTION_SEED, K, Q, V, X, by_hand

PLAIN = CONVENTIONS["epsilon"]

KEEP = torch.tensor([[True, True, False, True, False], [True] * 5, [False, True, False, False, False]])
FLOAT_MASK = random(3, 5, seed=5)
PARTLY_INFINITE = torch.where(KEEP, FLOAT_MASK, torch.full_like(FLOAT_MASK, -math.inf))
CAUSAL = torch.ones(3, 5, dtype=torch.bool).tril()
PER_HEAD = random(2, 2, 3, 5, seed=6) > -0.8
PER_BATCH = torch.tensor([[True] * 5, [True, True, True, False, False]])[:, None, None, :]

# options of F.scaled_dot_product_attention; what the oracle is told
SDPA: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "scale": ({"scale": 0.3}, {"scale": 0.3}),
    "no dropout": ({"dropout_p": 0.0, "is_causal": False}, {}),
    "causal": ({"is_causal": True}, {"keep": CAUSAL}),
    "bool mask": ({"attn_mask": KEEP}, {"keep": KEEP}),
    "bool mask for each head": ({"attn_mask": PER_HEAD}, {"keep": PER_HEAD}),
    "bool mask for each sample": ({"attn_mask": PER_BATCH}, {"keep": PER_BATCH}),
    "float mask": ({"attn_mask": FLOAT_MASK}, {"bias": FLOAT_MASK}),
    "float mask with -inf": ({"attn_mask": PARTLY_INFINITE}, {"bias": PARTLY_INFINITE}),
    "mask and scale": ({"attn_mask": KEEP, "scale": 2.0}, {"keep": KEEP, "scale": 2.0}),
}


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", SDPA)
def test_attention(name: str, convention: str) -> None:
    """The fused function and the written-out one have the relevance of the formulas."""
    options, told = SDPA[name]
    out, back = oracle.attention(Q, K, V, CONVENTIONS[convention], **told)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(Q, K, V, **options))
    expected = back(ATTENTION_SEED)
    fused = of_three(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options), (Q, K, V), ATTENTION_SEED, convention
    )
    assert_close(fused, expected)
    written = of_three(lambda q, k, v: by_hand(q, k, v, **told), (Q, K, V), ATTENTION_SEED, convention)
    assert_close(written, expected)


SCALES: dict[str, Function] = {
    "1 / math.sqrt": lambda q, k: (q * (1 / math.sqrt(q.size(-1)))) @ k.mT,
    "1.0 / math.sqrt of a shape": lambda q, k: (q * (1.0 / math.sqrt(k.shape[-1]))) @ k.mT,
    "divided": lambda q, k: (q / math.sqrt(q.size(-1))) @ k.mT,
    "divided by a power": lambda q, k: (q / q.shape[-1] ** 0.5) @ k.mT,
    "power": lambda q, k: (q * q.shape[-1] ** -0.5) @ k.mT,
    "square root of a quotient": lambda q, k: (q * math.sqrt(1 / q.shape[-1])) @ k.mT,
    "torch.sqrt": lambda q, k: (q / torch.sqrt(torch.tensor(q.size(-1), dtype=torch.float64))) @ k.mT,
    "float": lambda q, k: (q * float(q.size(-1)) ** -0.5) @ k.mT,
    "in place": lambda q, k: q.mul(1.0).div_(math.sqrt(q.size(-1))) @ k.mT,
}


@pytest.mark.parametrize(
    ("name", "capture"),
    list(
        one_in(
            4,
            [
                *(pytest.param(name, "auto") for name in SCALES),
                *(pytest.param(name, "export") for name in ("1 / math.sqrt", "torch.sqrt")),
            ],
        )
    ),
)
def test_scale_of_attention_in_every_spelling(name: str, capture: str) -> None:
    """One over the square root of the head dimension, which the model reads from a shape."""
    found = of_three(lambda q, k, v: SCALES[name](q, k).softmax(-1) @ v, (Q, K, V), ATTENTION_SEED, capture=capture)
    assert_close(found, oracle.attention(Q, K, V, PLAIN)[1](ATTENTION_SEED))


@pytest.mark.parametrize("name", ["causal", "bool mask", "float mask with -inf"])
def test_attention_through_export(name: str) -> None:
    options, told = SDPA[name]
    found = of_three(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options),
        (Q, K, V),
        ATTENTION_SEED,
        "attnlrp",
        capture="export",
    )
    assert_close(found, oracle.attention(Q, K, V, CONVENTIONS["attnlrp"], **told)[1](ATTENTION_SEED))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_formulas_of_attention_are_input_times_gradient(convention: str) -> None:
    """Without a stabilizer the chain of formulas is one gradient of the surrogate."""
    conventions = CONVENTIONS[convention].at(0.0)

    def surrogate(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = oracle.held_matmul(q / 2, k.mT) + FLOAT_MASK
        return oracle.held_matmul(scores.softmax(-1), v, conventions.constant_attention)

    expected = oracle.input_times_gradient(surrogate, (Q, K, V), ATTENTION_SEED)
    found = oracle.attention(Q, K, V, conventions, bias=FLOAT_MASK)[1](ATTENTION_SEED)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
    compiled = of_three(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, FLOAT_MASK),
        (Q, K, V),
        ATTENTION_SEED,
        conventions.preset(),
    )
    torch.testing.assert_close(compiled, expected, rtol=1e-8, atol=1e-9)


def test_attention_mask_that_is_an_input() -> None:
    """A float mask of the model's own inputs is an operand of the sum like any other."""

    class Masked(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    found = explained(Masked(), (Q, K, V, FLOAT_MASK), ATTENTION_SEED)
    scores = (Q / 2) @ K.mT
    weights, weights_back = oracle.softmax(scores + FLOAT_MASK)
    at_sum = weights_back(oracle.matmul(weights, V)[1](ATTENTION_SEED)[0])
    at_mask = oracle.summed_to(FLOAT_MASK * at_sum / (scores + FLOAT_MASK), FLOAT_MASK.shape)
    assert_close(found, (*oracle.attention(Q, K, V, PLAIN, bias=FLOAT_MASK)[1](ATTENTION_SEED), at_mask))


@pytest.mark.parametrize("capture", ["auto", "export"])
def test_bool_mask_that_is_an_input(capture: str) -> None:
    """Chosen at the call and not known when the model is compiled: it has no relevance."""

    class Masked(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    found = explained(Masked(), (Q, K, V, KEEP), ATTENTION_SEED, capture=capture)
    expected = oracle.attention(Q, K, V, PLAIN, keep=KEEP)[1](ATTENTION_SEED)
    assert_close(tuple(found)[:3], expected)


def test_attention_of_three_dimensions() -> None:
    q, k, v, seed = Q[0], K[0], V[0], ATTENTION_SEED[0]
    found = of_three(F.scaled_dot_product_attention, (q, k, v), seed)
    assert_close(found, oracle.attention(q, k, v, PLAIN)[1](seed))


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("causal", [False, True])
def test_grouped_query_attention(causal: bool, capture: str) -> None:
    """Heads of keys and values are repeated, and the relevance of the copies adds up."""
    q, seed = random(2, 4, 3, 4, seed=7), random(2, 4, 3, 6, seed=8)
    expected = oracle.attention(q, K, V, PLAIN, keep=CAUSAL if causal else None)[1](seed)
    found = of_three(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True),
        (q, K, V),
        seed,
        capture=capture,
    )
    assert_close(found, expected)


NUMBER_OVER_SIZE: dict[str, Function] = {
    "1 / x.shape": lambda x: x.sum(1) * (1 / x.shape[1]),
    "1.0 / x.size": lambda x: (1.0 / x.size(1)) * x.sum(dim=1),
    "over a sum of sizes": lambda x: x.sum(1) * (3.0 / (x.size(1) + x.size(2) - 6)) / 3,
}


@pytest.mark.parametrize("name", NUMBER_OVER_SIZE)
def test_number_divided_by_a_size(name: str) -> None:
    """A size is no tensor, and what is computed from it is a constant factor."""
    seed = random(2, 6)
    assert_close(of_one(NUMBER_OVER_SIZE[name], X, seed), X * (seed / stabilize(X.sum(1)))[:, None])


REPEATED: dict[str, Function] = {
    "repeat_interleave": lambda t: t.repeat_interleave(2, dim=1),
    "expand": lambda t: t[:, :, None, :, :].expand(2, 2, 2, 5, t.shape[-1]).reshape(2, 4, 5, t.shape[-1]),
    "stack": lambda t: torch.stack([t, t], dim=2).flatten(1, 2),
}


@pytest.mark.parametrize("name", REPEATED)
def test_grouped_query_attention_by_hand(name: str) -> None:
    q, seed, repeat = random(2, 4, 3, 4, seed=7), random(2, 4, 3, 6, seed=8), REPEATED[name]
    found = of_three(lambda q, k, v: F.scaled_dot_product_attention(q, repeat(k), repeat(v)), (q, K, V), seed)
    assert_close(found, oracle.attention(q, K, V, PLAIN)[1](seed))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_fully_masked_row(convention: str) -> None:
    """A query that may look at nothing has the output 0, and gives nothing to anyone."""
    keep = KEEP.clone()
    keep[1] = False
    told = CONVENTIONS[convention]
    _, back = oracle.attention(Q, K, V, told, keep=keep)
    assert bool((F.scaled_dot_product_attention(Q, K, V, attn_mask=keep)[:, :, 1] == 0).all())
    found = of_three(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=keep), (Q, K, V), ATTENTION_SEED, convention
    )
    for relevance in found:
        assert bool(relevance.isfinite().all())
    assert bool((found[0][:, :, 1] == 0).all())
    assert_close(found, back(ATTENTION_SEED))


def test_fully_masked_row_of_a_float_mask() -> None:
    mask = FLOAT_MASK.clone()
    mask[1] = -math.inf
    found = of_three(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask), (Q, K, V), ATTENTION_SEED)
    assert_close(found, oracle.attention(Q, K, V, PLAIN, bias=mask)[1](ATTENTION_SEED))


WEIGHTED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cast": lambda w, v: w.to(v.dtype) @ v,
    "type_as": lambda w, v: torch.matmul(w.type_as(v), v),
    "dropout": lambda w, v: F.dropout(w, 0.5, training=False) @ v,
    "contiguous views": lambda w, v: (w.reshape(4, 3, 5).contiguous() @ v.reshape(4, 5, 6)).view(2, 2, 3, 6),
    "values first": lambda w, v: (v.transpose(-2, -1) @ w.transpose(-2, -1)).transpose(-2, -1),
    "einsum": lambda w, v: torch.einsum("bhqk,bhkd->bhqd", w, v),
    "einsum, values first": lambda w, v: torch.einsum("bhkd,bhqk->bhqd", v, w),
    "einsum of moved values": lambda w, v: torch.einsum("bhqk,bkhd->bqhd", w, v.transpose(1, 2)).transpose(1, 2),
    "nan_to_num": lambda w, v: torch.nan_to_num(w) @ v,
    "masked again": lambda w, v: w.masked_fill(torch.zeros(3, 5, dtype=torch.bool), 0.0) @ v,
    "scaled": lambda w, v: (w * 2.0) @ (v / 2.0),
    "joined": lambda w, v: torch.cat([w[:, :1], w[:, 1:]], dim=1) @ v,
    "head by head": lambda w, v: torch.stack([w[:, i] @ v[:, i] for i in range(2)], dim=1),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_values_take_all_under_cp_lrp(name: str) -> None:
    """Weights from a softmax are constants, however they get to the product."""
    expected = oracle.attention(Q, K, V, CONVENTIONS["cplrp"])[1](ATTENTION_SEED)
    found = of_three(
        lambda q, k, v: WEIGHTED[name](torch.softmax((q / 2) @ k.transpose(-2, -1), dim=-1), v),
        (Q, K, V),
        ATTENTION_SEED,
        "cplrp",
    )
    assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dropout", "head by head"])
def test_values_take_all_under_cp_lrp_through_export(name: str) -> None:
    expected = oracle.attention(Q, K, V, CONVENTIONS["cplrp"])[1](ATTENTION_SEED)
    found = of_three(
        lambda q, k, v: WEIGHTED[name](torch.softmax((q / 2) @ k.transpose(-2, -1), dim=-1), v),
        (Q, K, V),
        ATTENTION_SEED,
        "cplrp",
        capture="export",
    )
    assert_close(found, expected)


SPELLED: dict[str, Function] = {
    "by name": lambda q, k, v: F.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=KEEP),
    "by position": lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, KEEP, 0.0, False),
    "in three dimensions": lambda q, k, v: F.scaled_dot_product_attention(
        q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), KEEP
    ).unflatten(0, (2, 2)),
    "moved": lambda q, k, v: F.scaled_dot_product_attention(
        q.transpose(1, 2).transpose(1, 2), k.contiguous(), v.clone(), attn_mask=KEEP[None, None]
    ),
    "scores masked in place": lambda q, k, v: (
        ((q * 0.5) @ k.transpose(-1, -2)).masked_fill_(~KEEP, -math.inf).softmax(-1) @ v
    ),
    "einsum": lambda q, k, v: torch.einsum(
        "bhqk,bhkd->bhqd",
        torch.einsum("bhqd,bhkd->bhqk", q * 0.5, k).masked_fill(~KEEP, -math.inf).softmax(dim=-1),
        v,
    ),
    "where": lambda q, k, v: torch.where(KEEP, (q * 0.5) @ k.mT, -math.inf).softmax(-1) @ v,
    "bmm": lambda q, k, v: torch.bmm(
        torch.bmm(q.reshape(4, 3, 4) * 0.5, k.reshape(4, 5, 4).transpose(1, 2))
        .masked_fill(~KEEP, -math.inf)
        .softmax(-1),
        v.reshape(4, 5, 6),
    ).view(2, 2, 3, 6),
    "index of a buffer": lambda q, k, v: (
        ((q * 0.5) @ k.mT).masked_fill(KEEP.view(1, 1, 3, 5)[:, :, :3, :5] == 0, float("-inf")).softmax(-1) @ v
    ),
}


@pytest.mark.parametrize("convention", ["epsilon", "cplrp"])
@pytest.mark.parametrize("name", SPELLED)
def test_masked_attention_in_every_spelling(name: str, convention: str) -> None:
    expected = oracle.attention(Q, K, V, CONVENTIONS[convention], keep=KEEP)[1](ATTENTION_SEED)
    assert_close(of_three(SPELLED[name], (Q, K, V), ATTENTION_SEED, convention), expected)


@pytest.mark.parametrize("name", ["where", "bmm", "scores masked in place"])
def test_masked_attention_in_every_spelling_through_export(name: str) -> None:
    expected = oracle.attention(Q, K, V, PLAIN, keep=KEEP)[1](ATTENTION_SEED)
    assert_close(of_three(SPELLED[name], (Q, K, V), ATTENTION_SEED, capture="export"), expected)
