"""The layout of the fused kernels: ``(batch, heads, length, features)``, with the last dimension contiguous.

Heads that share keys and values are rows of queries, so that nothing is repeated for them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from fxlrp.attention.call import Call


def shared_dims(call: Call) -> int:
    """How many of the last leading dimensions only the queries have, if their heads are better computed as rows.

    A mask with a row for each query would be repeated for the heads, and so it is compared with keys and values.
    """
    dims = 0
    if not call.is_causal:
        while dims < call.query.dim() - 2 and not _is_one(call.query, -3 - dims):
            if not (_is_one(call.keys, -3 - dims) and _is_one(call.value, -3 - dims)):
                break
            dims += 1
    if dims == 0 or call.mask is None or _is_for_all_rows(call.mask, dims):
        return dims
    features, length = call.query.size(-1) + call.value.size(-1), call.query.size(-2)
    is_known = isinstance(features, int) and isinstance(length, int)
    return dims if is_known and length <= features else 0


def _is_one(x: Tensor, dim: int) -> bool:
    """Whether a dimension is known to have size one; a missing one counts."""
    size = x.size(dim) if x.dim() >= -dim else 1
    return isinstance(size, int) and size == 1


def _is_for_all_rows(mask: Tensor, dims: int) -> bool:
    return all(_is_one(mask, -2 - dim) for dim in range(dims + 1))


def with_rows(call: Call, dims: int) -> Call:
    """The call with the last leading dimensions of the queries as rows."""
    if dims == 0:
        return call
    keys, value = (each.reshape(*each.shape[: -2 - dims], *each.shape[-2:]) for each in (call.keys, call.value))
    mask = call.mask
    if mask is not None and _is_for_all_rows(mask, dims):
        mask = mask.reshape(*mask.shape[: -2 - dims], 1, mask.shape[-1])
    elif mask is not None:
        mask = as_rows(mask.expand(*mask.shape[: -2 - dims], *call.query.shape[-2 - dims : -1], -1), dims)
    return replace(call, query=as_rows(call.query, dims), keys=keys, value=value, mask=mask)


def as_rows(x: Tensor, dims: int) -> Tensor:
    """Move the last leading dimensions of queries, or of a result, to the rows."""
    return x.flatten(-2 - dims, -2) if dims else x


def flat_call(call: Call) -> Call:
    """The call in the layout of the kernels, with the keys not transposed and a mask of numbers."""
    query, key, value = (flatten(each, call.batch) for each in (call.query, call.keys.transpose(-2, -1), call.value))
    mask = None if call.mask is None else _mask(call.mask, call.batch, query.dtype)
    return replace(call, query=query, keys=key, value=value, mask=mask)


def flatten(x: Tensor, batch: torch.Size) -> Tensor:
    """Expand the leading dimensions to ``batch``, and make them two."""
    if x.shape[:-2] != batch:
        x = x.expand(*batch, *x.shape[-2:])
    if len(batch) != 2:
        x = x.reshape(math.prod(batch[:-1]), batch[-1] if batch else 1, *x.shape[-2:])
    return x if x.stride(-1) == 1 else x.contiguous()


def unflatten(x: Tensor, batch: torch.Size) -> Tensor:
    """Undo :func:`flatten`, up to the expansion."""
    return x if len(batch) == 2 else x.reshape(*batch, *x.shape[-2:])


def _mask(mask: Tensor, batch: torch.Size, dtype: torch.dtype) -> Tensor:
    """The mask in four dimensions, of which the first two may be one."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -math.inf)
    mask = mask.to(dtype)
    if mask.dim() > 4 or (mask.dim() == 4 and len(batch) != 2):
        mask = mask.expand(*batch, *mask.shape[-2:])
        return mask.reshape(math.prod(batch[:-1]), batch[-1], *mask.shape[-2:])
    return mask[(None,) * (4 - mask.dim())]


def reduced(x: Tensor, like: Tensor) -> Tensor:
    """Sum ``x`` to the shape of an operand that was broadcast to it."""
    return x if x.dim() == like.dim() and x.shape == like.shape else x.sum_to_size(like.shape)
