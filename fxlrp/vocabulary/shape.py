"""Operations that move, copy, select or drop elements."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxlrp.functions import at_positions, repeat_heads, set_item
from fxlrp.operation import REQUIRED, Call, Family, Operation
from fxlrp.vocabulary import facts

_KEEP_ELEMENTS = (
    "reshape reshape_as view_as flatten t unflatten squeeze unsqueeze permute transpose movedim expand expand_as "
    "to cpu float double half bfloat16 flip roll pixel_shuffle pixel_unshuffle channel_shuffle repeat_heads "
    "cat stack hstack vstack dstack"
).split()

_ARRANGE = (
    "reshape reshape_as view_as flatten t unflatten squeeze unsqueeze permute transpose movedim expand expand_as "
    "select narrow getitem windows diagonal chunk split unbind repeat tile repeat_heads flip roll "
    "pixel_shuffle pixel_unshuffle channel_shuffle"
).split()


def _shape(name: str, function: Callable[..., Any], parameters: dict[str, Any], **options: Any) -> Operation:
    options = {"non_negative": facts.of_operands, "finite": facts.finite_operands, **options}
    options["keeps_elements"] = name in _KEEP_ELEMENTS
    options["arranges"] = name in _ARRANGE
    return Operation(
        name, Family.SHAPE, function, parameters, keeps_support=facts.always, moves=True, neutral=True, **options
    )


def _of_input(name: str, function: Callable[..., Any], parameters: dict[str, Any], **options: Any) -> Operation:
    return _shape(name, function, {"input": REQUIRED, **parameters}, **options)


def _is_flat(call: Call) -> bool:
    return bool(call.arguments["start_dim"] == 1 and call.arguments["end_dim"] == -1)


def views() -> Iterator[Operation]:
    """Operations whose result may share memory with the operand."""
    method, of_other = Tensor, {"without_relevance": ("other",), "reads_form": ("other",)}
    yield _of_input("reshape", method.reshape, {"shape": REQUIRED}, aliases=("view", "_unsafe_view"), variadic="shape")
    for name in ("reshape_as", "view_as"):
        yield _of_input(name, getattr(method, name), {"other": REQUIRED}, **of_other)
    yield _of_input("flatten", torch.flatten, {"start_dim": 0, "end_dim": -1}, aliases=("ravel",), is_flat=_is_flat)
    yield _of_input("t", torch.t, {})
    yield _of_input("unflatten", torch.unflatten, {"dim": REQUIRED, "sizes": REQUIRED})
    yield _of_input("squeeze", torch.squeeze, {"dim": None})
    yield _of_input("unsqueeze", torch.unsqueeze, {"dim": REQUIRED})
    yield _of_input("permute", method.permute, {"dims": REQUIRED}, variadic="dims")
    swapped = {"dim0": REQUIRED, "dim1": REQUIRED}
    yield _of_input("transpose", torch.transpose, swapped, aliases=("swapaxes", "swapdims"))
    moved = {"source": REQUIRED, "destination": REQUIRED}
    yield _of_input("movedim", torch.movedim, moved, aliases=("moveaxis",))
    yield _of_input(
        "expand", method.expand, {"size": REQUIRED}, aliases=("broadcast_to",), variadic="size", overlaps=True
    )
    yield _of_input("expand_as", method.expand_as, {"other": REQUIRED}, overlaps=True, **of_other)
    yield _of_input("select", torch.select, {"dim": REQUIRED, "index": REQUIRED})
    yield _of_input("narrow", torch.narrow, {"dim": REQUIRED, "start": REQUIRED, "length": REQUIRED})
    yield _of_input("getitem", operator.getitem, {"index": REQUIRED}, without_relevance=("index",))
    moving = {"dimension": REQUIRED, "size": REQUIRED, "step": REQUIRED}
    yield _of_input("windows", method.unfold, moving, overlaps=True)
    yield _of_input("diagonal", torch.diagonal, {"offset": 0, "dim1": 0, "dim2": 1})
    yield _of_input("chunk", torch.chunk, {"chunks": REQUIRED, "dim": 0}, multiple_results=True, separates=True)
    parts = {"split_size_or_sections": REQUIRED, "dim": 0}
    options: dict[str, Any] = dict(multiple_results=True, separates=True)
    yield _of_input("split", torch.split, parts, aliases=("split_with_sizes",), **options)
    yield _of_input("unbind", torch.unbind, {"dim": 0}, multiple_results=True)


def _types(call: Call) -> list[torch.dtype]:
    """The types to which a call of ``to`` converts, as far as they are not those of another tensor."""
    given = (*call.arguments["args"], *call.arguments["kwargs"].values())
    return [value for value in given if isinstance(value, torch.dtype)]


def _to_integers(call: Call) -> bool:
    return any(not (each.is_floating_point or each.is_complex) for each in _types(call))


def _to_other_than_truth_values(call: Call) -> bool:
    return torch.bool not in _types(call)


def _cast(name: str, function: Callable[..., Any], parameters: dict[str, Any], **options: Any) -> Operation:
    """An operation that may round: its result does not consist of elements of the operand."""
    known: dict[str, Any] = {"non_negative": facts.of_operands, "finite": facts.finite_operands}
    return Operation(name, Family.SHAPE, function, {"input": REQUIRED, **parameters}, **known, **options)


def casts() -> Iterator[Operation]:
    """Operations that change the type or the device of every element."""
    for name in ("long", "int", "short", "char", "byte", "bool"):
        yield _cast(
            name,
            getattr(Tensor, name),
            {"memory_format": torch.preserve_format},
            makes_integers=facts.always,
            maps_tokens=None if name == "bool" else facts.always,
        )
    yield _of_input(
        "to",
        Tensor.to,
        {"args": (), "kwargs": {}},
        aliases=("type_as",),
        without_relevance=("args", "kwargs"),
        reads_form=("args", "kwargs"),
        keeps_arguments=True,
        makes_integers=_to_integers,
        maps_tokens=_to_other_than_truth_values,
        is_cast=True,
        rowwise=facts.always,
    )
    like: dict[str, Any] = {"without_relevance": ("like",), "reads_form": ("like",), "is_cheap": True}
    yield _of_input("repeat_heads", repeat_heads, {"like": REQUIRED}, **like)
    same: dict[str, Any] = {"is_cast": True, "rowwise": facts.always}
    yield _of_input("cpu", Tensor.cpu, {"memory_format": torch.preserve_format}, **same)
    for name in ("float", "double", "half", "bfloat16"):
        yield _of_input(name, getattr(Tensor, name), {"memory_format": torch.preserve_format}, **same)


def copies() -> Iterator[Operation]:
    """Operations of one operand that copy its elements to new memory."""
    method, known = Tensor, {"allocates": True}
    yield _of_input("repeat", method.repeat, {"repeats": REQUIRED}, variadic="repeats", **known)
    yield _of_input("tile", torch.tile, {"dims": REQUIRED}, variadic="dims", **known)
    repeats = {"repeats": REQUIRED, "dim": None, "output_size": None}
    yield _of_input("repeat_interleave", torch.repeat_interleave, repeats, without_relevance=("repeats",), **known)
    yield _of_input("flip", method.flip, {"dims": REQUIRED}, variadic="dims", **known)
    yield _of_input("roll", torch.roll, {"shifts": REQUIRED, "dims": None}, **known)
    chosen = {"positions": REQUIRED}
    yield _of_input("at_positions", at_positions, chosen, without_relevance=("positions",))
    indexed = {"dim": REQUIRED, "index": REQUIRED}
    for name in ("index_select", "gather"):
        yield _of_input(name, getattr(torch, name), indexed, without_relevance=("index",), **known)
    along = {"indices": REQUIRED, "dim": None}
    yield _of_input("take_along_dim", torch.take_along_dim, along, without_relevance=("indices",), **known)
    yield _of_input("pixel_shuffle", torch.pixel_shuffle, {"upscale_factor": REQUIRED}, **known)
    yield _of_input("pixel_unshuffle", torch.pixel_unshuffle, {"downscale_factor": REQUIRED}, **known)
    yield _of_input("channel_shuffle", torch.channel_shuffle, {"groups": REQUIRED})
    windows = dict(kernel_size=REQUIRED, dilation=1, padding=0, stride=1)
    yield _of_input("unfold", F.unfold, windows, **known)
    ordered = {"descending": False, "stable": False}
    largest = {"k": REQUIRED, "dim": -1, "largest": True, "sorted": True}
    yield _of_input("topk", torch.topk, largest, multiple_results=True, **known)
    yield _of_input("sort", torch.sort, {"dim": -1, **ordered}, multiple_results=True, **known)


def fills() -> Iterator[Operation]:
    """Operations that replace elements with numbers, or add numbers beside them."""
    known = {"allocates": True}
    filled: dict[str, Any] = dict(
        non_negative=facts.of_operands_filled_with("value"), finite=facts.finite_operands_and("value"), **known
    )
    filled["shifts"] = facts.arguments_named("value")
    padded = {"pad": REQUIRED, "mode": "constant", "value": None}
    yield _of_input("pad", F.pad, padded, keeps_dimensions=True, **filled)
    masked = {"mask": REQUIRED, "value": REQUIRED}
    replaced: dict[str, Any] = dict(without_relevance=("mask",), maps_tokens=facts.one_varies)
    yield _of_input("masked_fill", torch.masked_fill, masked, **replaced, **filled)
    yield _of_input(
        "nan_to_num",
        torch.nan_to_num,
        {"nan": None, "posinf": None, "neginf": None},
        non_negative=facts.of_operands_filled_with("nan", "posinf", "neginf"),
        finite=facts.finite_operands,
        **known,
    )
    for name in ("tril", "triu"):
        yield _of_input(name, getattr(torch, name), {"diagonal": 0}, **known)
    yield _shape(
        "setitem",
        set_item,
        {"input": REQUIRED, "index": REQUIRED, "value": REQUIRED},
        operands=("input", "value"),
        without_relevance=("index",),
        **known,
    )


def joins() -> Iterator[Operation]:
    """Operations of several operands."""
    known = {"allocates": True}
    yield _shape(
        "where",
        torch.where,
        {"condition": REQUIRED, "input": REQUIRED, "other": REQUIRED},
        operands=("input", "other"),
        without_relevance=("condition",),
        maps_tokens=facts.one_varies,
        **known,
    )
    for name in ("maximum", "minimum"):
        binary = {"input": REQUIRED, "other": REQUIRED}
        yield _shape(name, getattr(torch, name), binary, operands=("input", "other"), **known)
    for name, aliases in {"cat": ("concat", "concatenate"), "stack": ()}.items():
        along, kept = {"tensors": REQUIRED, "dim": 0}, {**known, "keeps_dimensions": name == "cat"}
        yield _shape(name, getattr(torch, name), along, operands=("tensors",), aliases=aliases, **kept)
    for name in ("hstack", "vstack", "dstack"):
        yield _shape(name, getattr(torch, name), {"tensors": REQUIRED}, operands=("tensors",), **known)
