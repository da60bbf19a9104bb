"""The layout of the fused kernels: ``(batch, heads, length, features)``, with the last dimension contiguous."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from fxlrp.attention.call import Call


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
