"""Relevance of operations that move, copy or drop elements, as pure tensor functions.

Relevance follows the elements, and the relevance of copies adds up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxlrp.functions import set_item
from fxlrp.relevance.form import Form, reads_form
from fxlrp.relevance.numerics import as_type_of, unbroadcast


@reads_form("x")
def reshape_relevance(x: Tensor | Form, r: Tensor) -> Tensor:
    """Back to the shape before reshape, flatten, squeeze and similar operations."""
    return r.reshape(x.shape)


def permute_relevance(r: Tensor, dims: Sequence[int]) -> Tensor:
    """Back to the order before permute."""
    inverse = [0] * len(dims)
    for position, dim in enumerate(dims):
        inverse[dim % len(dims)] = position
    return r.permute(inverse)


def transpose_relevance(r: Tensor, dim0: int, dim1: int) -> Tensor:
    """Back to the order before transpose."""
    return r.transpose(dim0, dim1)


def movedim_relevance(r: Tensor, source: Any, destination: Any) -> Tensor:
    """Back to the order before movedim."""
    return r.movedim(destination, source)


@reads_form("x")
def expand_relevance(x: Tensor | Form, r: Tensor) -> Tensor:
    """Copies made by expand add up."""
    return unbroadcast(r, x)


@reads_form("x")
def repeat_relevance(x: Tensor | Form, r: Tensor, repeats: Sequence[int]) -> Tensor:
    """Copies made by repeat or tile add up."""
    shape = (1,) * (len(repeats) - x.dim()) + tuple(x.shape)
    repeats = (1,) * (len(shape) - len(repeats)) + tuple(repeats)
    interleaved = [size for pair in zip(repeats, shape, strict=True) for size in pair]
    return r.reshape(interleaved).sum(dim=tuple(range(0, len(interleaved), 2))).reshape(x.shape)


@reads_form("x")
def repeat_interleave_relevance(x: Tensor | Form, r: Tensor, repeats: int | Tensor, dim: int | None = None) -> Tensor:
    """Copies made by repeat_interleave add up."""
    if dim is None:
        source = torch.arange(math.prod(x.shape), device=r.device).repeat_interleave(repeats)
        return _zeros(x, r).reshape(-1).index_add(0, source, r).reshape(x.shape)
    source = torch.arange(x.shape[dim], device=r.device).repeat_interleave(repeats)
    return _zeros(x, r).index_add(dim, source, r)


def _zeros(x: Tensor | Form, r: Tensor) -> Tensor:
    """Zeros in the shape of a value, in the type of its relevance: tokens are integers, but their relevance is not."""
    return r.new_zeros(x.shape)


def _one_zero(x: Tensor | Form, r: Tensor) -> Tensor:
    """:func:`_zeros` to be read only: they share the memory of one."""
    return r.new_zeros(()).expand(x.shape)


def flip_relevance(r: Tensor, dims: Sequence[int]) -> Tensor:
    """Back to the order before flip."""
    return torch.flip(r, tuple(dims))


def roll_relevance(r: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Back to the order before roll."""
    back = [-shift for shift in shifts] if isinstance(shifts, list | tuple) else -shifts
    return torch.roll(r, back) if dims is None else torch.roll(r, back, dims)


@reads_form("x")
def select_relevance(x: Tensor | Form, r: Tensor, dim: int, index: int) -> Tensor:
    """To the selected slice; the others get none."""
    return torch.select_scatter(_zeros(x, r), r, dim, index)


@reads_form("x")
def narrow_relevance(x: Tensor | Form, r: Tensor, dim: int, start: int, length: int) -> Tensor:
    """To the narrowed range; the rest gets none."""
    start = start + x.shape[dim] if start < 0 else start
    return torch.slice_scatter(_zeros(x, r), r, dim, start, start + length)


@reads_form("x")
def index_select_relevance(x: Tensor | Form, r: Tensor, dim: int, index: Tensor) -> Tensor:
    """To the selected indices; an index that was selected twice gets the sum."""
    return _zeros(x, r).index_add(dim, index, r)


@reads_form("x")
def gather_relevance(x: Tensor | Form, r: Tensor, dim: int, index: Tensor) -> Tensor:
    """To the gathered elements; an element that was gathered twice gets the sum."""
    return _zeros(x, r).scatter_add(dim, index, r)


@reads_form("x")
def take_along_dim_relevance(x: Tensor | Form, r: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """To the elements that were taken; an element that was taken twice gets the sum."""
    if dim is None:
        return _zeros(x, r).reshape(-1).scatter_add(0, indices.reshape(-1), r.reshape(-1)).reshape(x.shape)
    # Both broadcast against each other, except in the dimension itself.
    like, position = _one_zero(x, r), dim % x.dim()
    shape = list(torch.broadcast_shapes(like.select(dim, 0).shape, indices.select(dim, 0).shape))
    wide = like.expand(*shape[:position], x.shape[dim], *shape[position:])
    return unbroadcast(gather_relevance(wide, r, dim, indices.expand(r.shape)), x)


@reads_form("x")
def index_relevance(x: Tensor | Form, r: Tensor, index: Any) -> Tensor:
    """To the elements ``x[index]``; an element that was indexed twice gets the sum."""
    indices = index if isinstance(index, tuple) else (index,)
    if any(isinstance(item, Tensor | list) for item in indices):
        positions = torch.arange(math.prod(x.shape), device=r.device).reshape(x.shape)[index]
        flat = _zeros(x, r).reshape(-1).index_add(0, positions.reshape(-1), r.reshape(-1))
        return flat.reshape(x.shape)
    return set_item(_zeros(x, r), index, r)


@reads_form("x")
def pad_relevance(x: Tensor | Form, r: Tensor, pad: Sequence[int], mode: str = "constant") -> Tensor:
    """Back to the elements before padding: constants absorb their relevance, copied borders add up."""
    if mode == "constant":
        return F.pad(r, [-amount for amount in pad])
    for pair in range(len(pad) // 2):
        before, after = pad[2 * pair], pad[2 * pair + 1]
        dim = x.dim() - 1 - pair
        size = x.shape[dim]
        source = torch.arange(-before, size + after, device=r.device)
        if mode == "circular":
            source = source % size
        elif mode == "reflect":
            source = size - 1 - (size - 1 - source.abs()).abs()
        else:
            source = source.clamp(0, size - 1)
        shape = [*r.shape[:dim], size, *r.shape[dim + 1 :]]
        r = r.new_zeros(shape).index_add(dim, source, r)
    return r


def pixel_shuffle_relevance(r: Tensor, factor: int) -> Tensor:
    """Back to the channels before pixel_shuffle."""
    return torch.pixel_unshuffle(r, factor)


def pixel_unshuffle_relevance(r: Tensor, factor: int) -> Tensor:
    """Back to the pixels before pixel_unshuffle."""
    return torch.pixel_shuffle(r, factor)


def channel_shuffle_relevance(r: Tensor, groups: int) -> Tensor:
    """Back to the order before channel_shuffle."""
    shape = r.shape
    return r.reshape(shape[0], shape[1] // groups, groups, -1).transpose(1, 2).reshape(shape)


@reads_form("x")
def repeat_heads_relevance(x: Tensor | Form, r: Tensor) -> Tensor:
    """Copies of a head that serve several queries add up."""
    if r.size(-3) == x.size(-3):
        return r
    heads: Tensor = r.unflatten(-3, (x.size(-3), -1))
    return heads.sum(-3)


@reads_form("x")
def unfold_relevance(
    x: Tensor | Form, r: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """Back from the columns of unfold to the image; where windows overlap, copies add up."""
    return F.fold(r, (x.size(-2), x.size(-1)), kernel_size, dilation, padding, stride)


@reads_form("x")
def windows_relevance(x: Tensor | Form, r: Tensor, dim: int, size: int, step: int) -> Tensor:
    """Back from the windows of ``Tensor.unfold`` along a dimension; where they overlap, copies add up."""
    dim = dim % x.dim()
    starts = torch.arange(0, x.shape[dim] - size + 1, step, device=r.device)
    positions = (starts.unsqueeze(1) + torch.arange(size, device=r.device)).flatten()
    return _zeros(x, r).index_add(dim, positions, r.movedim(-1, dim + 1).flatten(dim, dim + 1))


@reads_form("x")
def diagonal_relevance(x: Tensor | Form, r: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """To the diagonal; the rest gets none."""
    return torch.diagonal_scatter(_zeros(x, r), r, offset, dim1, dim2)


@reads_form("x")
def sorted_relevance(
    x: Tensor | Form, result: tuple[Tensor, Tensor], relevances: Mapping[int, Tensor], dim: int
) -> Tensor:
    """Back to the order before topk or sort; elements that topk omits get none."""
    r = relevances[0]
    return _zeros(x, r).scatter_add(dim, result[1], r)


def extremum_relevance(operand: Tensor, other: Any, r: Tensor, *, largest: bool) -> Tensor:
    """To the larger (or smaller) of two values; equal values share it."""
    wins = operand > other if largest else operand < other
    return unbroadcast(torch.where(wins, r, torch.where(operand == other, 0.5 * r, 0.0)), operand)


@reads_form("x")
def to_relevance(x: Tensor | Form, r: Tensor) -> Tensor:
    """Back to the dtype and device before a conversion; the relevance of tokens keeps its type."""
    return r.to(x.device, x.dtype) if x.is_floating_point() else r.to(x.device)


@reads_form("x")
def masked_fill_relevance(x: Tensor | Form, r: Tensor, mask: Tensor) -> Tensor:
    """To the elements that were not filled."""
    return unbroadcast(r.masked_fill(mask, 0.0), x)


@reads_form("x")
def masked_select_relevance(x: Tensor | Form, r: Tensor, mask: Tensor) -> Tensor:
    """To the elements that were selected."""
    mask = mask.expand(torch.broadcast_shapes(x.shape, mask.shape))
    wide = r.new_zeros(mask.shape).masked_scatter(mask, r)
    return unbroadcast(wide, x)


def nan_to_num_relevance(x: Tensor, r: Tensor) -> Tensor:
    """To the elements that were numbers."""
    return r.masked_fill(~x.isfinite(), 0.0)


@reads_form("operand")
def where_relevance(operand: Tensor | Form, r: Tensor, chosen: Tensor) -> Tensor:
    """To the elements that were chosen."""
    return unbroadcast(torch.where(chosen, r, 0.0), operand)


@reads_form("tensors")
def cat_relevance(r: Tensor, tensors: Sequence[Tensor | Form], dim: int = 0) -> tuple[Tensor, ...]:
    """The part of each concatenated tensor."""
    # An empty tensor of one dimension joins tensors of any shape, as the caches of language models begin.
    sizes = [0 if tensor.dim() == 1 and tensor.shape[0] == 0 else tensor.shape[dim] for tensor in tensors]
    parts = torch.split(r, sizes, dim)
    return tuple(as_type_of(part, tensor) for part, tensor in zip(parts, tensors, strict=True))


@reads_form("tensors")
def stack_relevance(r: Tensor, tensors: Sequence[Tensor | Form], dim: int = 0) -> tuple[Tensor, ...]:
    """The part of each stacked tensor."""
    return torch.unbind(r, dim)


@reads_form("tensors")
def dimensionwise_relevance(r: Tensor, tensors: Sequence[Tensor | Form], dim: int) -> tuple[Tensor, ...]:
    """The part of each tensor that hstack, vstack or dstack joined."""
    joined = dim if tensors[0].dim() > 1 or dim != 1 else 0
    parts = torch.split(r, [_widened(tensor, dim)[joined] for tensor in tensors], joined)
    return tuple(part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True))


def _widened(tensor: Tensor | Form, dim: int) -> tuple[int, ...]:
    """The shape to which vstack (``dim`` 0) or dstack (``dim`` 2) expands a tensor before joining."""
    shape = tuple(tensor.shape)
    if dim != 1 and len(shape) < 2:
        shape = (1, *shape) if shape else (1, 1)
    return (*shape, 1) if dim == 2 and len(shape) == 2 else shape


@reads_form("x")
def chunk_relevance(x: Tensor | Form, relevances: Mapping[int, Tensor], chunks: int, dim: int = 0) -> Tensor:
    """Back from the chunks; an unused chunk has none."""
    return torch.cat(_parts(x, relevances, torch.chunk, chunks, dim), dim)


@reads_form("x")
def split_relevance(x: Tensor | Form, relevances: Mapping[int, Tensor], sizes: Any, dim: int = 0) -> Tensor:
    """Back from the parts; an unused part has none."""
    return torch.cat(_parts(x, relevances, torch.split, sizes, dim), dim)


@reads_form("x")
def unbind_relevance(x: Tensor | Form, relevances: Mapping[int, Tensor], dim: int = 0) -> Tensor:
    """Back from the slices; an unused slice has none."""
    return torch.stack(_parts(x, relevances, torch.unbind, dim), dim)


def _parts(
    x: Tensor | Form, relevances: Mapping[int, Tensor], divide: Callable[..., Sequence[Tensor]], *how: Any
) -> list[Tensor]:
    """The relevance of each part of a value, which is zero for parts without any."""
    zeros = divide(_one_zero(x, next(iter(relevances.values()))), *how)
    known = {index % len(zeros): r for index, r in relevances.items()}
    return [known.get(index, zero) for index, zero in enumerate(zeros)]


def distances_backward(grad: Tensor, x1: Tensor, x2: Tensor, p: float, distances: Tensor) -> Tensor:
    """``J^T grad`` of ``torch.cdist`` for the first operand.

    Where ``torch.vmap`` maps over ``grad`` alone, the kernel reads the distances outside their memory.
    """
    of_each = torch.zeros_like(grad) + distances
    result: Tensor = torch.ops.aten._cdist_backward.default(grad, x1, x2, p, of_each)
    return result


def written_into_strides(
    input: Tensor, src: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """``torch.as_strided_scatter`` for contiguous memory, of functions over which ``torch.vmap`` can map."""
    places = torch.arange(input.numel(), device=input.device).as_strided(size, stride, storage_offset or 0)
    return input.flatten().index_put((places,), src).reshape(input.shape)
