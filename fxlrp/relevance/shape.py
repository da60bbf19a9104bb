"""Relevance of operations that move, copy or drop elements: relevance follows the elements, and copies add up."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.functions import set_item
from fxlrp.operation import REQUIRED
from fxlrp.program import Relevance
from fxlrp.relevance import element_relevance as elements
from fxlrp.relevance import layouts, positions
from fxlrp.relevance.held import SELECTED
from fxlrp.relevance.step import Contributions, Emitter, Implementation, RuleTable, Step, like_receiver
from fxlrp.rules.specs import Backpropagation, PassThrough


def _to_input(function: Callable[..., Tensor], *names: str, needs_input: bool = True) -> Emitter:
    """A step that passes the relevance of the result, or of its parts, to the only operand."""

    def emit(step: Step) -> Contributions:
        arguments, defaults = step.arguments, step.operation.parameters
        shown = list(names)
        # An index may be an ellipsis, which is also the marker of a parameter without a default.
        while shown and defaults[shown[-1]] is not REQUIRED and arguments[shown[-1]] is defaults[shown[-1]]:
            shown.pop()
        values = [arguments[name] for name in shown]
        x = (arguments["input"],) if needs_input else ()
        received = step.parts if step.operation.multiple_results else step.relevance
        return [step.call(function, *x, received, *values)]

    return emit


def _moved(function: Callable[..., Tensor], *names: str) -> Emitter:
    return _to_input(function, *names, needs_input=False)


def _emit_pad(step: Step) -> Contributions:
    arguments = step.arguments
    mode = {} if arguments["mode"] == "constant" else {"mode": arguments["mode"]}
    return [step.call(elements.pad_relevance, arguments["input"], step.relevance, tuple(arguments["pad"]), **mode)]


def _emit_where(step: Step) -> Contributions:
    condition = step.arguments["condition"]

    def contribution(position: int, operand: Any) -> fx.Node:
        chosen = step.call(torch.logical_not, condition) if position else condition
        return step.call(elements.where_relevance, operand, step.relevance, chosen)

    return step.to_receivers(contribution)


def _emit_sorted(step: Step) -> Contributions:
    arguments = step.arguments
    return [step.call(elements.sorted_relevance, arguments["input"], step.node, step.parts, arguments["dim"])]


def _extremum(*, largest: bool) -> Emitter:
    def emit(step: Step) -> Contributions:
        others = step.operands[::-1]
        return step.to_receivers(
            lambda position, own: step.call(
                elements.extremum_relevance, own, others[position], step.relevance, largest=largest
            )
        )

    return emit


def _emit_setitem(step: Step) -> Contributions:
    arguments = step.arguments
    kept = assigned = None
    if 0 in step.receivers:
        kept = step.call(set_item, step.relevance, arguments["index"], 0.0)
    if 1 in step.receivers:
        part = step.call(operator.getitem, step.relevance, arguments["index"])
        assigned = step.call(elements.expand_relevance, arguments["value"], part)
    return [kept, assigned]


def _joined(function: Callable[..., Any], dim: int | None = None) -> Emitter:
    """A step that gives each joined tensor its part, along the dimension of the call or a fixed dimension."""

    def emit(step: Step) -> Contributions:
        arguments = step.arguments
        along = arguments["dim"] if dim is None else dim
        parts = step.call(function, step.relevance, arguments["tensors"], along)
        return step.to_receivers(lambda position, _: step.call(operator.getitem, parts, position))

    return emit


_EMITTERS: Mapping[str, Emitter] = {
    **dict.fromkeys(
        ("reshape", "reshape_as", "view_as", "flatten", "unflatten", "squeeze", "unsqueeze"),
        _to_input(elements.reshape_relevance),
    ),
    "t": _moved(torch.t),
    "permute": _moved(elements.permute_relevance, "dims"),
    "transpose": _moved(elements.transpose_relevance, "dim0", "dim1"),
    "movedim": _moved(elements.movedim_relevance, "source", "destination"),
    **dict.fromkeys(("expand", "expand_as"), _to_input(elements.expand_relevance)),
    "repeat": _to_input(elements.repeat_relevance, "repeats"),
    "tile": _to_input(elements.repeat_relevance, "dims"),
    "repeat_interleave": _to_input(elements.repeat_interleave_relevance, "repeats", "dim"),
    "flip": _moved(elements.flip_relevance, "dims"),
    "roll": _moved(elements.roll_relevance, "shifts", "dims"),
    "select": _to_input(elements.select_relevance, "dim", "index"),
    "narrow": _to_input(elements.narrow_relevance, "dim", "start", "length"),
    "at_positions": _to_input(positions.at_positions_relevance, "positions"),
    "index_select": _to_input(elements.index_select_relevance, "dim", "index"),
    "gather": _to_input(elements.gather_relevance, "dim", "index"),
    "getitem": _to_input(elements.index_relevance, "index"),
    "pad": _emit_pad,
    "pixel_shuffle": _moved(elements.pixel_shuffle_relevance, "upscale_factor"),
    "pixel_unshuffle": _moved(elements.pixel_unshuffle_relevance, "downscale_factor"),
    "repeat_heads": _to_input(elements.repeat_heads_relevance),
    "unfold": _to_input(elements.unfold_relevance, "kernel_size", "dilation", "padding", "stride"),
    "windows": _to_input(elements.windows_relevance, "dimension", "size", "step"),
    "diagonal": _to_input(elements.diagonal_relevance, "offset", "dim1", "dim2"),
    **dict.fromkeys(("topk", "sort"), _emit_sorted),
    "nan_to_num": _to_input(elements.nan_to_num_relevance),
    "tril": _moved(torch.tril, "diagonal"),
    "triu": _moved(torch.triu, "diagonal"),
    "take_along_dim": _to_input(elements.take_along_dim_relevance, "indices", "dim"),
    "maximum": _extremum(largest=True),
    "minimum": _extremum(largest=False),
    "channel_shuffle": _moved(elements.channel_shuffle_relevance, "groups"),
    **dict.fromkeys(
        ("to", "cpu", "float", "double", "half", "bfloat16", "long", "int", "short", "char", "byte", "bool"),
        _to_input(elements.to_relevance),
    ),
    "masked_fill": _to_input(elements.masked_fill_relevance, "mask"),
    "masked_select": _to_input(elements.masked_select_relevance, "mask"),
    "where": _emit_where,
    "setitem": _emit_setitem,
    "cat": _joined(elements.cat_relevance),
    "stack": _joined(elements.stack_relevance),
    "vstack": _joined(elements.dimensionwise_relevance, 0),
    "hstack": _joined(elements.dimensionwise_relevance, 1),
    "dstack": _joined(elements.dimensionwise_relevance, 2),
    "chunk": _to_input(elements.chunk_relevance, "chunks", "dim"),
    "split": _to_input(elements.split_relevance, "split_size_or_sections", "dim"),
    "unbind": _to_input(elements.unbind_relevance, "dim"),
    "from_local": _to_input(layouts.from_local_relevance, "layout"),
    "redistribute": _to_input(layouts.redistribute_relevance),
    "to_local": _to_input(layouts.to_local_relevance),
}


def _carried(emit: Emitter) -> Callable[[Step], Contributions | None]:
    """Convert a quotient by the result to one by the operands, whose elements form the result."""

    def specialize(step: Step) -> Contributions | None:
        received = step.received
        if not (step.operation.keeps_elements or step.may_drop):
            return None
        if isinstance(received, Relevance):
            if received.base is not step.node:
                return None
            factors: Relevance | Mapping[int, Relevance] = Relevance(received.factor)
        else:
            if any(each.base is None or each.base.args != (step.node, index) for index, each in received.items()):
                return None
            factors = {index: Relevance(each.factor) for index, each in received.items()}
        moved = emit(replace(step, received=factors))
        return [
            step.times(operand, factor) if isinstance(factor, fx.Node) else None
            for operand, factor in zip(step.operands, moved, strict=True)
        ]

    return specialize


# Where its relevance is zero, the operand may be NaN or infinite, and its product with a factor of zero NaN.
# A change of the type may drop the imaginary part.
_CHANGE_TYPES = ("to", "float", "double", "half", "bfloat16")
_NOT_FINITE = ("nan_to_num",)
_SELECT_BY_VALUE = ("topk", "sort", "maximum", "minimum")

MOVES: Mapping[str, Emitter] = {name: emit for name, emit in _EMITTERS.items() if name not in _NOT_FINITE}
"""The steps that are the transposed maps of their operations, too: they move elements, and add those of copies."""

RULES: RuleTable = {
    PassThrough: {
        name: Implementation(emit, of_parameter=like_receiver(emit), follows=True)
        if name in _NOT_FINITE
        else Implementation(
            emit,
            specialize=_carried(emit),
            of_parameter=like_receiver(emit),
            quotients=True,
            follows=True,
            of_complex=name not in _CHANGE_TYPES,
            frozen=SELECTED if name in _SELECT_BY_VALUE else None,
        )
        for name, emit in _EMITTERS.items()
    },
    Backpropagation: {
        name: Implementation(emit, of_complex=name not in _CHANGE_TYPES) for name, emit in _EMITTERS.items()
    },
}
