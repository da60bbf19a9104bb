"""Inputs, layers and formulas written by hand that tests of attention and of whole transformers share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

import transformer_oracles as oracle
from oracles import random, randomize
from transformer_oracles import Conventions

X = random(2, 3, 6, seed=1)
SEED = random(2, 3, 6, seed=2)

Q, K, V = random(2, 2, 3, 4, seed=1), random(2, 2, 5, 4, seed=2), random(2, 2, 5, 6, seed=3)
ATTENTION_SEED = random(2, 2, 3, 6, seed=4)


def by_hand(q: Tensor, k: Tensor, v: Tensor, keep: Any = None, bias: Any = None, scale: float | None = None) -> Tensor:
    """Attention written out in a model's words."""
    scores = (q * (q.size(-1) ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    if keep is not None:
        scores = scores.masked_fill(~keep, float("-inf"))
    if bias is not None:
        scores = scores + bias
    return torch.softmax(scores, dim=-1) @ v


def multi_head(batch_first: bool = True, bias: bool = True) -> nn.MultiheadAttention:
    module = randomize(nn.MultiheadAttention(8, 2, batch_first=batch_first, bias=bias))
    assert isinstance(module, nn.MultiheadAttention)
    return module


TOKENS, TOKENS_SEED = random(2, 4, 8, seed=1), random(2, 4, 8, seed=2)
PADDED = torch.tensor([[False, False, False, True], [False, False, True, True]])

FIRST = torch.triu(torch.full((4, 4), -math.inf, dtype=torch.float64), 1)


def self_attention(
    x: Tensor, seed: Tensor, module: nn.MultiheadAttention, conventions: Conventions, **told: Any
) -> tuple[Tensor, Tensor]:
    """The value and the relevance: query, key and value are one tensor."""
    out, back = oracle.multi_head_attention(x, x, x, module, conventions, **told)
    return out, sum(back(seed), torch.zeros_like(x))


def rotate_half(x: Tensor) -> Tensor:
    first, second = x[..., :3], x[..., 3:]
    return torch.cat((-second, first), dim=-1)


IDS = torch.tensor([[3, 1, 4, 1], [5, 2, 0, 0]])


def affine(x: Tensor, layer: nn.Linear, epsilon: float) -> tuple[Tensor, oracle.Back]:
    return oracle.linear(x, layer.weight.detach(), layer.bias.detach(), epsilon)
