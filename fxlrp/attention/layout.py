"""The layout of the fused kernels: ``(batch, heads, length, features)``, with the last dimension contiguous.

Heads that share keys and values are rows of queries, or heads of a kernel that takes fewer keys and values than
queries, so that nothing is repeated for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fxlrp.attention.call import Call, has_one


def shared_dims(call: Call) -> int:
    """How many of the last leading dimensions only the queries have."""
    dims = 0
    while dims < call.query.dim() - 2 and not has_one(call.query, -3 - dims):
        if not (has_one(call.keys, -3 - dims) and has_one(call.value, -3 - dims)):
            break
        dims += 1
    return dims


def row_dims(call: Call) -> int:
    """How many of :func:`shared_dims` are better computed as rows.

    A mask with a row for each query would be repeated for the heads, and so it is compared with keys and values.
    """
    dims = 0 if call.is_causal else shared_dims(call)
    if dims == 0 or call.mask is None or _is_for_all_rows(call.mask, dims):
        return dims
    features, length = call.query.size(-1) + call.value.size(-1), call.query.size(-2)
    is_known = isinstance(features, int) and isinstance(length, int)
    return dims if is_known and length <= features else 0


def _is_for_all_rows(mask: Tensor, dims: int) -> bool:
    return all(has_one(mask, -2 - dim) for dim in range(dims + 1))


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


@dataclass(frozen=True)
class Flat:
    """How leading dimensions become two, those of the kernels.

    Args:
        batch: The leading dimensions of the result.
        shared: How many of the last ones keys and values lack. They are heads of the kernel, as is the one before them
            unless it is the only one.
        repeats: Whether keys and values are repeated for all heads.
    """

    batch: torch.Size
    shared: int
    repeats: bool

    def query(self, x: Tensor) -> Tensor:
        """Queries, a result or its cotangent in the layout of the kernels."""
        return self._flatten(x, self.batch)

    def keys(self, x: Tensor) -> Tensor:
        """Keys that are not transposed, or values, in the layout of the kernels."""
        return self._flatten(x, self._of_keys)

    def mask(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """The mask as numbers in four dimensions, of which the first two may be one."""
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -math.inf)
        mask = mask.to(dtype)
        mask = mask[(None,) * (len(self.batch) + 2 - mask.dim())]
        parts = [
            part if all(isinstance(size, int) and size == 1 for size in part) else whole
            for part, whole in zip(self._parts(mask.shape[:-2]), self._parts(self.batch), strict=True)
        ]
        return self._flatten(mask, (*parts[0], *parts[1]))

    def from_query(self, x: Tensor) -> Tensor:
        """Undo :meth:`query`, up to the expansion."""
        return x if self._is_flat else x.reshape(*self.batch, *x.shape[-2:])

    def from_keys(self, x: Tensor) -> Tensor:
        """Undo :meth:`keys`, up to the expansion."""
        return x if self._is_flat else x.reshape(*self._of_keys, *x.shape[-2:])

    @property
    def _of_keys(self) -> tuple[int, ...]:
        if self.repeats:
            return tuple(self.batch)
        return (*self.batch[: len(self.batch) - self.shared], *(1,) * self.shared)

    @property
    def _samples(self) -> int:
        """The number of dimensions of samples; the others are heads."""
        own = len(self.batch) - self.shared
        return max(own - 1, 0) if self.shared == 0 or own > 1 else own

    @property
    def _is_flat(self) -> bool:
        return len(self.batch) == 2 and self._samples == 1

    def _parts(self, sizes: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """The dimensions of samples and those of heads."""
        return sizes[: self._samples], sizes[self._samples :]

    def _flatten(self, x: Tensor, batch: Sequence[int]) -> Tensor:
        if x.shape[:-2] != tuple(batch):
            x = x.expand(*batch, *x.shape[-2:])
        if not self._is_flat:
            x = x.reshape(*map(math.prod, self._parts(batch)), *x.shape[-2:])
        return x if x.stride(-1) == 1 else x.contiguous()


def flat_call(call: Call, flat: Flat) -> Call:
    """The call in the layout of the kernels, with the keys not transposed and a mask of numbers."""
    mask = None if call.mask is None else flat.mask(call.mask, call.query.dtype)
    key, value = flat.keys(call.keys.transpose(-2, -1)), flat.keys(call.value)
    return replace(call, query=flat.query(call.query), keys=key, value=value, mask=mask)


def reduced(x: Tensor, like: Tensor) -> Tensor:
    """Sum ``x`` to the shape of an operand that was broadcast to it."""
    return x if x.dim() == like.dim() and x.shape == like.shape else x.sum_to_size(like.shape)
