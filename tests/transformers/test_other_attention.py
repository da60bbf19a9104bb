"""Attention without a softmax, and with cosines for scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import transformer_oracles as oracle
from helpers import assert_close, explained, of_three
from transformer_parts import ATTENTION_SEED, K, Q, V


def test_linear_attention() -> None:
    """phi(q) (phi(k)^T v) over its normalizer, which is a constant."""

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        return q @ (k.transpose(-2, -1) @ v) / (q @ k.sum(-2, keepdim=True).transpose(-2, -1))

    def mapped(x: Tensor) -> tuple[Tensor, oracle.Back]:
        y, back = oracle.add(F.elu(x), torch.ones_like(x))
        return y, lambda relevance: back(relevance)[0]

    (q, q_back), (k, k_back) = mapped(Q), mapped(K)
    inner, inner_back = oracle.matmul(k.mT, V)
    _, outer_back = oracle.matmul(q, inner)
    at_q, at_inner = outer_back(ATTENTION_SEED)
    at_k, at_v = inner_back(at_inner)
    assert_close(of_three(function, (Q, K, V), ATTENTION_SEED), (q_back(at_q), k_back(at_k.mT), at_v))


def test_cosine_attention() -> None:
    """Swin's second version: normalized queries and keys, and a learned scale that is clamped."""
    scale = nn.Parameter(torch.tensor([[[0.5]], [[9.0]]], dtype=torch.float64))

    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = scale

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
            return (scores * torch.clamp(self.scale, max=1.5).exp()).softmax(-1) @ v

    factor = scale.detach().clamp(max=1.5).exp()
    scores, scores_back = oracle.matmul(F.normalize(Q, dim=-1), F.normalize(K, dim=-1).mT)
    weights, weights_back = oracle.softmax(scores * factor)
    at_weights, at_v = oracle.matmul(weights, V)[1](ATTENTION_SEED)
    at_q, at_k = scores_back(weights_back(at_weights))
    assert_close(explained(Cosine(), (Q, K, V), ATTENTION_SEED), (at_q, at_k.mT, at_v))
