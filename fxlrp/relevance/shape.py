"""Relevance of operations that move, copy or drop elements: it follows them, and copies add up."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxlrp.functions import set_item
from fxlrp.program import Relevance
from fxlrp.relevance.numerics import as_type_of, unbroadcast
from fxlrp.relevance.step import Contribution, Contributions, Emitter, Implementation, RuleTable, Step
from fxlrp.rules.specs import PassThrough


def reshape_relevance(x: Tensor, r: Tensor) -> Tensor:
    """Back to the shape before reshape, flatten, squeeze and their like."""
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


def expand_relevance(x: Tensor, r: Tensor) -> Tensor:
    """Copies made by expand add up."""
    return unbroadcast(r, x)


def repeat_relevance(x: Tensor, r: Tensor, repeats: Sequence[int]) -> Tensor:
    """Copies made by repeat or tile add up."""
    shape = (1,) * (len(repeats) - x.dim()) + tuple(x.shape)
    repeats = (1,) * (len(shape) - len(repeats)) + tuple(repeats)
    interleaved = [size for pair in zip(repeats, shape, strict=True) for size in pair]
    return r.reshape(interleaved).sum(dim=tuple(range(0, len(interleaved), 2))).reshape(x.shape)


def repeat_interleave_relevance(x: Tensor, r: Tensor, repeats: int | Tensor, dim: int | None = None) -> Tensor:
    """Copies made by repeat_interleave add up."""
    if dim is None:
        return repeat_interleave_relevance(x.reshape(-1), r, repeats, 0).reshape(x.shape)
    source = torch.arange(x.shape[dim], device=x.device).repeat_interleave(repeats)
    return _zeros(x, r).index_add(dim, source, r)


def _zeros(x: Tensor, r: Tensor) -> Tensor:
    """Zeros in the shape of a value, in the type of its relevance: tokens are integers, their relevance is not."""
    return torch.zeros_like(x, dtype=r.dtype)


def flip_relevance(r: Tensor, dims: Sequence[int]) -> Tensor:
    """Back to the order before flip."""
    return torch.flip(r, tuple(dims))


def roll_relevance(r: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Back to the order before roll."""
    back = [-shift for shift in shifts] if isinstance(shifts, list | tuple) else -shifts
    return torch.roll(r, back) if dims is None else torch.roll(r, back, dims)


def select_relevance(x: Tensor, r: Tensor, dim: int, index: int) -> Tensor:
    """To the selected slice; the others get none."""
    return torch.select_scatter(_zeros(x, r), r, dim, index)


def narrow_relevance(x: Tensor, r: Tensor, dim: int, start: int, length: int) -> Tensor:
    """To the narrowed range; the rest gets none."""
    start = start + x.shape[dim] if start < 0 else start
    return torch.slice_scatter(_zeros(x, r), r, dim, start, start + length)


def index_select_relevance(x: Tensor, r: Tensor, dim: int, index: Tensor) -> Tensor:
    """To the selected indices; one that was selected twice gets the sum."""
    return _zeros(x, r).index_add(dim, index, r)


def gather_relevance(x: Tensor, r: Tensor, dim: int, index: Tensor) -> Tensor:
    """To the gathered elements; one that was gathered twice gets the sum."""
    return _zeros(x, r).scatter_add(dim, index, r)


def take_along_dim_relevance(x: Tensor, r: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """To the elements that were taken; one that was taken twice gets the sum."""
    if dim is None:
        return gather_relevance(x.reshape(-1), r, 0, indices.reshape(-1)).reshape(x.shape)
    # Both broadcast against each other, but for the dimension itself.
    shape = list(torch.broadcast_shapes(x.select(dim, 0).shape, indices.select(dim, 0).shape))
    position = dim % x.dim()
    wide = x.expand(*shape[:position], x.shape[dim], *shape[position:])
    return unbroadcast(gather_relevance(wide, r, dim, indices.expand(r.shape)), x)


def index_relevance(x: Tensor, r: Tensor, index: Any) -> Tensor:
    """To the elements ``x[index]``; one that was indexed twice gets the sum."""
    indices = index if isinstance(index, tuple) else (index,)
    if any(isinstance(item, Tensor | list) for item in indices):
        positions = torch.arange(x.numel(), device=x.device).reshape(x.shape)[index]
        flat = _zeros(x, r).reshape(-1).index_add(0, positions.reshape(-1), r.reshape(-1))
        return flat.reshape(x.shape)
    return set_item(_zeros(x, r), index, r)


def pad_relevance(x: Tensor, r: Tensor, pad: Sequence[int], mode: str = "constant") -> Tensor:
    """Back to what was padded: constants keep what falls on them, copied borders add up."""
    if mode == "constant":
        return F.pad(r, [-amount for amount in pad])
    for pair in range(len(pad) // 2):
        before, after = pad[2 * pair], pad[2 * pair + 1]
        dim = x.dim() - 1 - pair
        size = x.shape[dim]
        source = torch.arange(-before, size + after, device=x.device)
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


def repeat_heads_relevance(x: Tensor, r: Tensor) -> Tensor:
    """Heads that were repeated to serve several queries add up."""
    heads: Tensor = r.unflatten(-3, (x.size(-3), -1))
    return heads.sum(-3)


def unfold_relevance(
    x: Tensor, r: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """Back from the columns that unfold makes of an image; where windows overlap, copies add up."""
    return F.fold(r, (x.size(-2), x.size(-1)), kernel_size, dilation, padding, stride)


def windows_relevance(x: Tensor, r: Tensor, dim: int, size: int, step: int) -> Tensor:
    """Back from the windows along a dimension that ``Tensor.unfold`` makes; where they overlap, copies add up."""
    dim = dim % x.dim()
    starts = torch.arange(0, x.shape[dim] - size + 1, step, device=x.device)
    positions = (starts.unsqueeze(1) + torch.arange(size, device=x.device)).flatten()
    return _zeros(x, r).index_add(dim, positions, r.movedim(-1, dim + 1).flatten(dim, dim + 1))


def diagonal_relevance(x: Tensor, r: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """To the diagonal; the rest gets none."""
    return torch.diagonal_scatter(_zeros(x, r), r, offset, dim1, dim2)


def sorted_relevance(x: Tensor, result: tuple[Tensor, Tensor], relevances: Mapping[int, Tensor], dim: int) -> Tensor:
    """Back to the order before topk or sort; what topk leaves out gets none."""
    r = relevances[0]
    return _zeros(x, r).scatter_add(dim, result[1], r)


def extremum_relevance(operand: Tensor, other: Any, r: Tensor, *, largest: bool) -> Tensor:
    """To the larger (or the smaller) of two values; equal ones share."""
    wins = operand > other if largest else operand < other
    return unbroadcast(torch.where(wins, r, torch.where(operand == other, 0.5 * r, 0.0)), operand)


def to_relevance(x: Tensor, r: Tensor) -> Tensor:
    """Back to the dtype and device before a conversion."""
    return r.to(x)


def masked_fill_relevance(x: Tensor, r: Tensor, mask: Tensor) -> Tensor:
    """To the elements that were not filled."""
    return unbroadcast(r.masked_fill(mask, 0.0), x)


def nan_to_num_relevance(x: Tensor, r: Tensor) -> Tensor:
    """To the elements that were numbers."""
    return r.masked_fill(~x.isfinite(), 0.0)


def where_relevance(operand: Any, r: Tensor, chosen: Tensor) -> Tensor:
    """To the elements that were chosen."""
    return unbroadcast(torch.where(chosen, r, 0.0), operand)


def cat_relevance(r: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> tuple[Tensor, ...]:
    """To each of the concatenated tensors its part."""
    parts = torch.split(r, [tensor.shape[dim] for tensor in tensors], dim)
    return tuple(as_type_of(part, tensor) for part, tensor in zip(parts, tensors, strict=True))


def stack_relevance(r: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """To each of the stacked tensors its part."""
    return torch.unbind(r, dim)


def dimensionwise_relevance(r: Tensor, tensors: Sequence[Tensor], dim: int) -> tuple[Tensor, ...]:
    """To each of the tensors that hstack, vstack or dstack joined its part."""
    joined = dim if tensors[0].dim() > 1 or dim != 1 else 0
    widened = [tensor.reshape(_widened(tensor, dim)) for tensor in tensors]
    parts = torch.split(r, [tensor.shape[joined] for tensor in widened], joined)
    return tuple(part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True))


def _widened(tensor: Tensor, dim: int) -> tuple[int, ...]:
    """The shape that a tensor has before vstack (``dim`` 0) or dstack (``dim`` 2) joins it."""
    shape = tuple(tensor.shape)
    if dim != 1 and len(shape) < 2:
        shape = (1, *shape) if shape else (1, 1)
    return (*shape, 1) if dim == 2 and len(shape) == 2 else shape


def chunk_relevance(x: Tensor, relevances: Mapping[int, Tensor], chunks: int, dim: int = 0) -> Tensor:
    """Back from the chunks; one that nobody used has none."""
    return torch.cat(_parts(torch.chunk(x, chunks, dim), relevances), dim)


def split_relevance(x: Tensor, relevances: Mapping[int, Tensor], sizes: Any, dim: int = 0) -> Tensor:
    """Back from the parts; one that nobody used has none."""
    return torch.cat(_parts(torch.split(x, sizes, dim), relevances), dim)


def unbind_relevance(x: Tensor, relevances: Mapping[int, Tensor], dim: int = 0) -> Tensor:
    """Back from the slices; one that nobody used has none."""
    return torch.stack(_parts(torch.unbind(x, dim), relevances), dim)


def _parts(values: Sequence[Tensor], relevances: Mapping[int, Tensor]) -> list[Tensor]:
    known = {index % len(values): r for index, r in relevances.items()}
    like = next(iter(known.values()))
    return [known[index] if index in known else _zeros(value, like) for index, value in enumerate(values)]


def _to_input(function: Callable[..., Tensor], *names: str, needs_input: bool = True) -> Emitter:
    """A step that hands the relevance of the result, or of its parts, to the only operand."""

    def emit(step: Step) -> Contributions:
        arguments, defaults = step.arguments, step.operation.parameters
        shown = list(names)
        while shown and arguments[shown[-1]] is defaults[shown[-1]]:
            shown.pop()
        values = [arguments[name] for name in shown]
        x = (arguments["input"],) if needs_input else ()
        received = step.parts if step.operation.many else step.relevance
        return [step.call(function, *x, received, *values)]

    return emit


def _moved(function: Callable[..., Tensor], *names: str) -> Emitter:
    return _to_input(function, *names, needs_input=False)


def _emit_pad(step: Step) -> Contributions:
    arguments = step.arguments
    mode = {} if arguments["mode"] == "constant" else {"mode": arguments["mode"]}
    return [step.call(pad_relevance, arguments["input"], step.relevance, tuple(arguments["pad"]), **mode)]


def _emit_where(step: Step) -> Contributions:
    condition = step.arguments["condition"]
    contributions: list[Contribution] = []
    for position, operand in enumerate(step.operands):
        chosen = condition
        if position == 1 and position in step.receivers:
            chosen = step.call(torch.logical_not, condition)
        receives = position in step.receivers
        contributions.append(step.call(where_relevance, operand, step.relevance, chosen) if receives else None)
    return contributions


def _emit_sorted(step: Step) -> Contributions:
    arguments = step.arguments
    return [step.call(sorted_relevance, arguments["input"], step.node, step.parts, arguments["dim"])]


def _emit_extremum(step: Step) -> Contributions:
    a, b = step.operands
    largest = step.operation.name == "maximum"
    return [
        step.call(extremum_relevance, own, other, step.relevance, largest=largest)
        if position in step.receivers
        else None
        for position, (own, other) in enumerate(((a, b), (b, a)))
    ]


def _emit_setitem(step: Step) -> Contributions:
    arguments = step.arguments
    kept = assigned = None
    if 0 in step.receivers:
        kept = step.call(set_item, step.relevance, arguments["index"], 0.0)
    if 1 in step.receivers:
        part = step.call(operator.getitem, step.relevance, arguments["index"])
        assigned = step.call(expand_relevance, arguments["value"], part)
    return [kept, assigned]


_STACKED_OVER = {"vstack": 0, "hstack": 1, "dstack": 2}


def _emit_cat(step: Step) -> Contributions:
    arguments = step.arguments
    if step.operation.name in _STACKED_OVER:
        dim = _STACKED_OVER[step.operation.name]
        parts = step.call(dimensionwise_relevance, step.relevance, arguments["tensors"], dim)
    elif step.operation.name == "stack":
        parts = step.call(stack_relevance, step.relevance, arguments["dim"])
    else:
        parts = step.call(cat_relevance, step.relevance, arguments["tensors"], arguments["dim"])
    return [
        step.call(operator.getitem, parts, position) if position in step.receivers else None
        for position in range(len(step.operands))
    ]


_EMITTERS: Mapping[str, Emitter] = {
    **dict.fromkeys(
        ("reshape", "reshape_as", "view_as", "flatten", "unflatten", "squeeze", "unsqueeze"),
        _to_input(reshape_relevance),
    ),
    "t": _moved(torch.t),
    "permute": _moved(permute_relevance, "dims"),
    "transpose": _moved(transpose_relevance, "dim0", "dim1"),
    "movedim": _moved(movedim_relevance, "source", "destination"),
    **dict.fromkeys(("expand", "expand_as"), _to_input(expand_relevance)),
    "repeat": _to_input(repeat_relevance, "repeats"),
    "tile": _to_input(repeat_relevance, "dims"),
    "repeat_interleave": _to_input(repeat_interleave_relevance, "repeats", "dim"),
    "flip": _moved(flip_relevance, "dims"),
    "roll": _moved(roll_relevance, "shifts", "dims"),
    "select": _to_input(select_relevance, "dim", "index"),
    "narrow": _to_input(narrow_relevance, "dim", "start", "length"),
    "index_select": _to_input(index_select_relevance, "dim", "index"),
    "gather": _to_input(gather_relevance, "dim", "index"),
    "getitem": _to_input(index_relevance, "index"),
    "pad": _emit_pad,
    "pixel_shuffle": _moved(pixel_shuffle_relevance, "upscale_factor"),
    "pixel_unshuffle": _moved(pixel_unshuffle_relevance, "downscale_factor"),
    "repeat_heads": _to_input(repeat_heads_relevance),
    "unfold": _to_input(unfold_relevance, "kernel_size", "dilation", "padding", "stride"),
    "windows": _to_input(windows_relevance, "dimension", "size", "step"),
    "diagonal": _to_input(diagonal_relevance, "offset", "dim1", "dim2"),
    **dict.fromkeys(("topk", "sort"), _emit_sorted),
    "nan_to_num": _to_input(nan_to_num_relevance),
    "tril": _moved(torch.tril, "diagonal"),
    "triu": _moved(torch.triu, "diagonal"),
    "take_along_dim": _to_input(take_along_dim_relevance, "indices", "dim"),
    **dict.fromkeys(("maximum", "minimum"), _emit_extremum),
    "channel_shuffle": _moved(channel_shuffle_relevance, "groups"),
    **dict.fromkeys(("to", "float", "double", "half", "bfloat16"), _to_input(to_relevance)),
    "masked_fill": _to_input(masked_fill_relevance, "mask"),
    "where": _emit_where,
    "setitem": _emit_setitem,
    **dict.fromkeys(("cat", "stack", *_STACKED_OVER), _emit_cat),
    "chunk": _to_input(chunk_relevance, "chunks", "dim"),
    "split": _to_input(split_relevance, "split_size_or_sections", "dim"),
    "unbind": _to_input(unbind_relevance, "dim"),
}


def _emit_shape(step: Step) -> Contributions:
    return _EMITTERS[step.operation.name](step)


def _specialize_shape(step: Step) -> Contributions | None:
    """A quotient by the result becomes one by the operands, whose elements the result consists of."""
    received = step.received
    if isinstance(received, Relevance):
        if received.base is not step.node:
            return None
        factors: Relevance | Mapping[int, Relevance] = Relevance(received.factor)
    else:
        if any(each.base is None or each.base.args != (step.node, index) for index, each in received.items()):
            return None
        factors = {index: Relevance(each.factor) for index, each in received.items()}
    moved = _emit_shape(replace(step, received=factors))
    return [
        step.times(operand, factor) if isinstance(factor, fx.Node) else None
        for operand, factor in zip(step.operands, moved, strict=True)
    ]


RULES: RuleTable = {PassThrough: Implementation(_emit_shape, specialize=_specialize_shape)}
