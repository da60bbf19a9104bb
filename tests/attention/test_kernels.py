"""Attention and its transposed map equal autograd through the written-out form, by every kernel and in blocks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fxlrp.attention import attention, attention_transposed, blocks, kernels
from fxlrp.errors import InputError
from oracles import random
from traced import Largest

SHARED = ((2, 3), (2, 3), (2, 3))
BATCHES = {
    "batch and heads": SHARED,
    "broadcast": ((2, 1), (1, 3), (2, 3)),
    "heads": ((3,), (3,), (3,)),
    "no batch": ((), (), ()),
    "windows": ((2, 1, 3), (2, 2, 3), (3,)),
    "groups": ((2, 2, 3), (2, 2, 1), (2, 2, 1)),
    "keys and values for all": ((2, 3), (), (1, 1)),
    "keys for all": ((2, 3), (1,), (2, 3)),
}
SIZES = {"fewer queries": (5, 6, 7), "more queries": (6, 5, 7), "one query": (1, 6, 7), "wide values": (5, 6, 9)}
MASKS = {
    "none": None,
    "numbers": random(5, 6, seed=4),
    "truth values": random(5, 6, seed=5) > 0,
    "keys": random(6, seed=6) > -0.5,
    "heads": random(3, 5, 6, seed=7),
    "samples": random(2, 1, 1, 6, seed=8) > -0.5,
}
WAYS = ("kernel", "kernel for equal heads", "one block", "blocks")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How attention is computed."""
    if request.param == "kernel for equal heads":
        (kernel,) = kernels._KERNELS["cpu"]
        monkeypatch.setattr(kernels, "_KERNELS", {"cpu": (replace(kernel, shares_heads=False),)})
    elif request.param != "kernel":
        monkeypatch.setattr(kernels, "_KERNELS", {})
    if request.param == "blocks":
        monkeypatch.setattr(blocks, "_WEIGHTS", 20)
    return str(request.param)


def written_out(operands: Any, mask: Any, scale: Any, is_causal: bool, low: float) -> Tensor:
    q, keys, v = operands
    scores = (q @ keys) * scale
    if is_causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -math.inf)
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, low)
        else:
            scores = (scores + mask).masked_fill(mask == torch.finfo(mask.dtype).min, -1e9)
    result: Tensor = torch.nan_to_num(torch.softmax(scores, -1)) @ v
    return result


def check(q: Tensor, keys: Tensor, v: Tensor, tolerance: float = 1e-12, low: float = -math.inf, **options: Any) -> None:
    """The result and the vector-Jacobian products are those of autograd."""
    inputs = [each.clone().requires_grad_() for each in (q, keys, v)]
    told = {"mask": None, "scale": 1.0, "is_causal": False, **options}
    expected = written_out(inputs, **told, low=low)
    u = random(*expected.shape, seed=9).to(q.dtype)
    gradients = torch.autograd.grad(expected, inputs, u)
    told["hides_finitely"] = low > -math.inf
    out, kept = attention(q, keys, v, **told)
    found = (out, *attention_transposed(u, q, keys, v, out, kept, **told))
    for one, other in zip(found, (expected, *gradients), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def operands(batches: Any, queries: int, keys: int, features: int) -> tuple[Tensor, Tensor, Tensor]:
    of_query, of_keys, of_value = batches
    q, k = random(*of_query, queries, 7, seed=1), random(*of_keys, 7, keys, seed=2)
    return q, k, random(*of_value, keys, features, seed=3)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("batches", BATCHES.values(), ids=BATCHES)
def test_shapes(way: str, batches: Any, sizes: tuple[int, int, int], is_causal: bool) -> None:
    check(*operands(batches, *sizes), scale=0.3, is_causal=is_causal)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_masks(way: str, mask: Tensor | None, is_causal: bool) -> None:
    check(*operands(SHARED, 5, 6, 7), mask=mask, is_causal=is_causal)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (5, 6), (3, 1, 6), (3, 5, 6), (2, 1, 1, 1, 6), (2, 2, 3, 5, 6)])
@pytest.mark.parametrize("features", [1, 7])
def test_masks_of_heads_that_share_keys(way: str, features: int, shape: tuple[int, ...]) -> None:
    """Heads are rows of queries unless that repeats a mask which is larger than the keys and values."""
    q, k, v = random(2, 2, 3, 5, features, seed=1), random(2, 2, 1, features, 6, seed=2), random(2, 1, 1, 6, 7, seed=3)
    for mask in (random(*shape, seed=4), random(*shape, seed=5) > -0.5):
        check(q, k, v if features == 7 else v[..., :1], mask=mask)


MASKS_OF_SHARED = {
    **{name: MASKS[name] for name in ("none", "numbers", "truth values", "keys", "samples")},
    "heads": random(6, 5, 6, seed=7),
    "samples and heads": random(2, 6, 1, 6, seed=8) > -0.5,
    "samples and queries": random(2, 1, 5, 6, seed=9),
}


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("mask", MASKS_OF_SHARED.values(), ids=MASKS_OF_SHARED)
@pytest.mark.parametrize("heads", [1, 2, 6])
def test_heads_that_share_keys_and_values(way: str, heads: int, mask: Tensor | None, is_causal: bool) -> None:
    """Against heads that are repeated, whose relevance adds up."""
    q, keys, v = operands(((2, 6), (2, heads), (2, heads)), 5, 6, 7)
    inputs = [each.clone().requires_grad_() for each in (q, keys, v)]
    repeated = (inputs[0], *(each.repeat_interleave(6 // heads, 1) for each in inputs[1:]))
    expected = written_out(repeated, mask, 0.3, is_causal, -math.inf)
    u = random(*expected.shape, seed=9)
    gradients = torch.autograd.grad(expected, inputs, u)
    told: dict[str, Any] = {"mask": mask, "scale": 0.3, "is_causal": is_causal, "shares_heads": True}
    out, kept = attention(q, keys, v, **told)
    found = (out, *attention_transposed(u, q, keys, v, out, kept, **told))
    for one, other in zip(found, (expected, *gradients), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_shared_heads_are_not_repeated_for_a_kernel() -> None:
    """Causal attention of more keys than queries are wide: no tensor is larger than the queries or the keys."""
    q, keys, v = random(2, 8, 4, 4, seed=1), random(2, 2, 4, 16, seed=2), random(2, 2, 16, 4, seed=3)
    for told in ({"is_causal": True}, {"mask": random(1, 1, 4, 16, seed=4)}):
        with Largest() as largest:
            out, kept = attention(q, keys, v, shares_heads=True, **told)
            attention_transposed(out, q, keys, v, out, kept, shares_heads=True, **told)
        assert largest.size == q.numel() == keys.numel()


def test_a_mask_with_more_dimensions_than_the_scores(way: str) -> None:
    check(*operands(((3,), (3,), (2, 3)), 5, 6, 7), mask=random(2, 1, 5, 6, seed=4))
    check(*operands((SHARED[0], SHARED[1], (3,)), 5, 6, 7), mask=random(2, 3, 5, 6, seed=4))


@pytest.mark.parametrize("low", [-math.inf, -1e9])
def test_queries_that_may_look_at_no_key(way: str, low: float) -> None:
    """Their result is zero, or the mean of the values if scores are replaced with low numbers."""
    mask = random(2, 1, 5, 6, seed=5) > 0
    mask[0, :, 2] = False
    check(*operands(SHARED, 5, 6, 7), mask=mask, low=low)
    check(*operands(SHARED, 5, 6, 7), mask=torch.tensor([True, False]).reshape(2, 1, 1, 1), low=low)


@pytest.mark.parametrize("low", [torch.finfo(torch.float64).min, -1e9, -1e5])
def test_numbers_that_hide_all_keys(way: str, low: float) -> None:
    """A sum with a very low number is rounded to it, and with a low one it is not."""
    mask = torch.zeros(5, 6, dtype=torch.float64)
    mask[2], mask[1, 3] = low, low
    check(*operands(SHARED, 5, 6, 7), mask=mask, tolerance=1e-6)
    check(*operands(SHARED, 5, 6, 7), mask=torch.full((1, 1), low, dtype=torch.float64), tolerance=1e-6)


def test_a_scale_that_is_a_tensor(way: str) -> None:
    check(*operands(SHARED, 5, 6, 7), scale=torch.tensor(0.3, dtype=torch.float64))


def test_no_queries_and_no_samples(way: str) -> None:
    check(*operands(SHARED, 0, 6, 7))
    check(*operands(((0, 3), (0, 3), (0, 3)), 5, 6, 7))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(way: str, dtype: torch.dtype) -> None:
    """As close to double precision as the rounding of weights and results permits."""
    tolerance = 4 * torch.finfo(dtype).eps
    q, keys, v = (each.to(dtype) for each in operands(SHARED, 5, 6, 7))
    out, kept = attention(q, keys, v, scale=0.3)
    results = (out, *attention_transposed(torch.ones_like(out), q, keys, v, out, kept, scale=0.3))
    precise = [each.double().requires_grad_() for each in (q, keys, v)]
    expected = written_out(precise, None, 0.3, False, -math.inf)
    gradients = torch.autograd.grad(expected.sum(), precise)
    for one, other in zip(results, (expected, *gradients), strict=True):
        assert one.dtype == dtype
        # The steps themselves are compared in double precision above; this is what rounding to the type adds.
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)


def test_shares_scale_the_results(way: str) -> None:
    q, keys, v = operands(SHARED, 5, 6, 7)
    out, kept = attention(q, keys, v)
    plain = attention_transposed(out, q, keys, v, out, kept)
    shared = attention_transposed(out, q, keys, v, out, kept, shares=(0.25, 0.5))
    for one, other, factor in zip(shared, plain, (0.25, 0.25, 0.5), strict=True):
        torch.testing.assert_close(one, other * factor)


def test_a_vector_is_refused() -> None:
    q, keys, v = operands(((), (), ()), 5, 6, 7)
    with pytest.raises(InputError, match="example_inputs"):
        attention(q[0], keys, v)


def test_weights_of_one_block_at_a_time_are_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is linear in the length: no tensor has more elements than the limit, or than an operand."""
    monkeypatch.setattr(kernels, "_KERNELS", {})
    monkeypatch.setattr(blocks, "_WEIGHTS", 640)
    q, keys, v = operands(((), (), ()), 64, 64, 7)
    with Largest() as largest:
        out, kept = attention(q, keys, v, is_causal=True)
        attention_transposed(out, q, keys, v, out, kept, is_causal=True)
    assert largest.size <= 640
