"""Attention in blocks of queries: the weights of one block at a time are written out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fxlrp.attention.call import Call
from fxlrp.attention.layout import reduced
from fxlrp.functions import mask_scores

# The number of weights that are written out at a time: 16 MB in single precision.
_WEIGHTS = 2**22


@dataclass(frozen=True)
class _Block:
    """The rows of the queries from ``start`` to ``stop``, or all of them."""

    start: int = 0
    stop: int | None = None

    def of(self, rows: Tensor) -> Tensor:
        """The rows of the block of a tensor whose last but one dimension is that of the queries, or is one."""
        return (
            rows if self.stop is None or rows.dim() < 2 or rows.size(-2) == 1 else rows[..., self.start : self.stop, :]
        )


def in_blocks(call: Call) -> Tensor:
    """The result of attention."""
    results = [torch.matmul(_weights(call, block), call.value) for block in _blocks(call)]
    return results[0] if len(results) == 1 else torch.cat(results, -2)


def transposed_in_blocks(u: Tensor, call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """``J^T u`` of attention for its queries, transposed keys and values."""
    of_query: list[Tensor] = []
    of_keys, of_value = torch.zeros_like(call.keys), torch.zeros_like(call.value)
    for block in _blocks(call):
        query, part, weights = block.of(call.query), block.of(u), _weights(call, block)
        of_value += reduced(weights.mT @ part, call.value)
        of_scores = softmax_transposed(part @ call.value.mT, weights) * call.scale
        of_query.append(reduced(of_scores @ call.keys.mT, query))
        of_keys += reduced(query.mT @ of_scores, call.keys)
    return of_query[0] if len(of_query) == 1 else torch.cat(of_query, -2), of_keys, of_value


def softmax_transposed(u: Tensor, y: Tensor, dim: int = -1) -> Tensor:
    """``J^T u = y * (u - sum(y * u))`` of a softmax with the result ``y``, in at least single precision."""
    precise = torch.promote_types(y.dtype, torch.float32)
    weights, c = y.to(precise), u.to(precise)
    return (weights * (c - (weights * c).sum(dim, keepdim=True))).to(u.dtype)


def _blocks(call: Call) -> Iterator[_Block]:
    """Blocks with a limited number of weights; one block where a size is symbolic, or there are few queries."""
    sizes, length = (*call.batch, call.keys.size(-1)), call.query.size(-2)
    if not all(isinstance(size, int) for size in (*sizes, length)) or length * math.prod(sizes) <= _WEIGHTS:
        yield _Block()
        return
    step = max(1, _WEIGHTS // math.prod(sizes))
    for start in range(0, length, step):
        yield _Block(start, min(start + step, length))


def _weights(call: Call, block: _Block) -> Tensor:
    """The attention weights of a block; zero in rows where everything is masked."""
    scores = torch.matmul(block.of(call.query), call.keys) * call.scale
    if call.mask is not None:
        scores = mask_scores(scores, block.of(call.mask))
    if call.is_causal:
        queries = torch.arange(block.start, block.start + scores.size(-2), device=scores.device)
        scores = mask_scores(scores, queries.unsqueeze(-1) >= torch.arange(scores.size(-1), device=scores.device))
    return torch._safe_softmax(scores, -1)
