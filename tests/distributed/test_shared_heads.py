"""Attention of heads that share keys and values, divided over two ranks, against autograd on one device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from devices import on_ranks
from fxlrp.attention import attention, attention_transposed
from oracles import random

HEADS = 1


def differences() -> dict[int, tuple[float, int]]:
    """By the number of heads of keys: the largest difference, and how many collectives there were."""
    return {heads: _difference(heads) for heads in (1, 2)}


def _difference(heads: int) -> tuple[float, int]:
    q, k, v = (random(2, each, 5, 8, seed=index) for index, each in enumerate((4, heads, heads)))
    given = [each.requires_grad_() for each in (q, k, v)]
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True)
    u = random(*expected.shape, seed=9)
    gradients = torch.autograd.grad(expected, given, u)
    mesh = init_device_mesh("cpu", (2,))
    # A single head cannot be divided, and lies on both.
    parts = [
        distribute_tensor(each.detach(), mesh, [Shard(HEADS)] if each.shape[HEADS] > 1 else None)
        for each in (q, k, v, u)
    ]
    query, key, value, cotangent = parts
    with CommDebugMode() as calls:
        out, kept = attention(query, key.mT, value, scale=0.3, is_causal=True, shares_heads=True)
        of_query, of_keys, of_value = attention_transposed(
            cotangent, query, key.mT, value, out, kept, scale=0.3, is_causal=True, shares_heads=True
        )
    found = [_whole(each) for each in (out, of_query, of_keys.mT, of_value)]
    pairs = zip(found, (expected, *gradients), strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs), calls.get_total_counts()


def _whole(value: Tensor) -> Tensor:
    assert isinstance(value, DTensor)
    return value.full_tensor()


def test_shared_heads_stay_where_they_are_if_they_can_be_divided() -> None:
    for found in on_ranks(2, differences):
        assert max(difference for difference, _ in found.values()) < 1e-12
        assert found[2][1] == 0 < found[1][1]
