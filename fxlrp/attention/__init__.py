"""Attention as one operation, and its transposed map.

ATen's fused kernels compute both where one fits: they never write out the weights, so that memory is linear in the
length. Elsewhere, such as on other devices or for head sizes that differ, blocks of queries do, one after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.attention.blocks import in_blocks, transposed_in_blocks
from fxlrp.attention.call import Call, divided_heads, has_fewer_heads
from fxlrp.attention.kernels import Kernel, kernel_for
from fxlrp.attention.layout import Flat, as_rows, flat_call, reduced, row_dims, shared_dims, with_rows
from fxlrp.attention.on_devices import Parts


def attention(
    query: Tensor,
    keys: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    scale: float | Tensor = 1.0,
    is_causal: bool = False,
    hides_finitely: bool = False,
    shares_heads: bool = False,
) -> tuple[Tensor, Tensor]:
    """``softmax(scale * Q K^T + mask) V``, and what :func:`attention_transposed` needs of it.

    Args:
        query: The queries, ``(..., L, d)``.
        keys: The transposed keys, ``(..., d, S)``.
        value: The values, ``(..., S, e)``.
        mask: Added to the scores, or True where a query may look at a key; broadcasts to ``(..., L, S)``.
        scale: A number, or a tensor of one element.
        is_causal: Whether query ``i`` may look at the keys up to ``i`` only.
        hides_finitely: Whether a mask of truth values replaces scores with low numbers, not minus infinity. A query
            that may look at no key then looks at all of them equally.
        shares_heads: Whether queries have a multiple of the heads of keys and values, ``(..., heads, L, d)``: as many
            heads of queries in a row share each of these.

    Returns:
        The result, ``(..., L, e)``, which is zero for queries that may look at no key; and the logarithms of the sums
        of exponentials, in the layout of the kernel, or an empty tensor where no kernel fits.
    """
    parts = Parts.of(query, keys, value, shares_heads=shares_heads)
    if parts is not None:
        q, k, v = map(parts.of_operand, (query, keys, value))
        out, kept = attention(q, k, v, *_of_parts(parts, mask, scale), is_causal, hides_finitely, shares_heads)
        operands = (query,) if shares_heads else (query, keys, value)
        batch = torch.broadcast_shapes(*(each.shape[:-2] for each in operands))
        return parts.whole(out, (*batch, query.shape[-2], value.shape[-1])), kept
    shares_heads = shares_heads and has_fewer_heads(keys, query)
    given = Call.of(query, keys, value, mask, scale, is_causal, hides_finitely, shares_heads)
    dims = row_dims(given)
    call = with_rows(given, dims)
    kernel = kernel_for(call)
    if kernel is None:
        out, kept = in_blocks(call), query.new_empty(0)
    else:
        flat = _flat(call, kernel)
        out, kept = kernel.forward(flat_call(call, flat))
        out = flat.from_query(out)
    out = _with_heads(out, given, dims)
    return out.flatten(-4, -3) if shares_heads else out, kept


def attention_transposed(
    u: Tensor,
    query: Tensor,
    keys: Tensor,
    value: Tensor,
    out: Tensor,
    kept: Tensor,
    mask: Tensor | None = None,
    scale: float | Tensor = 1.0,
    is_causal: bool = False,
    hides_finitely: bool = False,
    shares_heads: bool = False,
    *,
    shares: tuple[float, float] = (1.0, 1.0),
) -> tuple[Tensor, Tensor, Tensor]:
    """``J^T u`` of :func:`attention` for its queries, transposed keys and values.

    Args:
        u: The cotangent, in the shape of ``out``.
        query: The queries.
        keys: The transposed keys.
        value: The values.
        out: The first result of :func:`attention`.
        kept: Its second result.
        mask: The mask.
        scale: The scale.
        is_causal: Whether query ``i`` may look at the keys up to ``i`` only.
        hides_finitely: Whether a mask of truth values replaces scores with low numbers.
        shares_heads: Whether queries have a multiple of the heads of keys and values.
        shares: Factors of the results: of that for queries and keys, and of that for the values.
    """
    parts = Parts.of(query, keys, value, shares_heads=shares_heads)
    if parts is not None:
        u, q, k, v, out = map(parts.of_operand, (u, query, keys, value, out))
        how = (*_of_parts(parts, mask, scale), is_causal, hides_finitely, shares_heads)
        results = attention_transposed(u, q, k, v, out, kept, *how, shares=shares)
        of_each = (parts.whole(r, x.shape) for r, x in zip(results, (query, keys, value), strict=True))
        return next(of_each), next(of_each), next(of_each)
    shares_heads = shares_heads and has_fewer_heads(keys, query)
    given = Call.of(query, keys, value, mask, scale, is_causal, hides_finitely, shares_heads)
    if shares_heads:
        u, out = (divided_heads(each, keys.size(-3)) for each in (u, out))
    dims = row_dims(given)
    call, u, out = with_rows(given, dims), as_rows(u, dims), as_rows(out, dims)
    kernel = kernel_for(call)
    if kernel is None:
        of_query, of_keys, of_value = transposed_in_blocks(u, call)
    else:
        flat = _flat(call, kernel)
        results = kernel.backward(flat.query(u), flat_call(call, flat), flat.query(out), kept)
        of_query, of_keys, of_value = (
            flat.from_query(results[0]),
            flat.from_keys(results[1]).transpose(-2, -1),
            flat.from_keys(results[2]),
        )
    of_query = _with_heads(of_query, given, dims)
    if given.factor is not None:
        of_query = of_query * given.factor
    if shares_heads:
        of_query = of_query.flatten(-4, -3)
    of_scores, of_values = shares
    return (
        _shared(reduced(of_query, query), of_scores),
        _shared(reduced(of_keys, call.keys).reshape(keys.shape), of_scores),
        _shared(reduced(of_value, call.value).reshape(value.shape), of_values),
    )


def _flat(call: Call, kernel: Kernel) -> Flat:
    """The layout in which a kernel takes a call."""
    return Flat(call.batch, shared_dims(call), repeats=not kernel.shares_heads)


def _of_parts(parts: Parts, mask: Tensor | None, scale: float | Tensor) -> tuple[Tensor | None, float | Tensor]:
    """The mask and the scale of the part of attention on this device."""
    return (
        None if mask is None else parts.of_operand(mask),
        parts.of_operand(scale) if isinstance(scale, Tensor) else scale,
    )


def _with_heads(rows: Tensor, call: Call, dims: int) -> Tensor:
    """Undo :func:`as_rows` for queries or a result."""
    return rows.unflatten(-2, call.query.shape[-2 - dims : -1]) if dims else rows


def _shared(contribution: Tensor, share: float) -> Tensor:
    """A contribution, which is in its own memory, times its share."""
    return contribution if share == 1 else contribution.mul_(share)
