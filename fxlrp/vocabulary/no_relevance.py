"""Operations whose results receive no relevance: shapes, comparisons, indices."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fxlrp.bags import bag_of_rows, largest_in_bags
from fxlrp.functions import (
    attention_mask,
    attention_scale,
    both_masks,
    causal_mask,
    combination_places,
    initial_state,
    padding_mask,
)
from fxlrp.layouts import whole
from fxlrp.operation import REQUIRED, Family, Operation
from fxlrp.sequences import is_padding, last_index, longest, reversed_index

# Attributes of a tensor that are not tensors.
SHAPE_ATTRIBUTES = frozenset(
    "shape dtype device layout ndim is_cuda is_cpu is_sparse is_quantized requires_grad names itemsize nbytes".split()
)

_INPUT = {"input": REQUIRED}
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "logical_not")
_SIZES = ("size", "dim", "numel", "element_size", "attention_scale")
_OF_SIZES_AND_TYPES = frozenset(
    (
        *_SIZES,
        *"getattr is_floating_point is_complex zeros_like ones_like empty_like full_like".split(),
        *"new_zeros new_ones new_empty initial_state causal_mask combination_places".split(),
    )
)


def _made(name: str, function: Callable[..., Any], parameters: Mapping[str, Any], **options: Any) -> Operation:
    options = {"allocates": True, "ignores_values": name in _OF_SIZES_AND_TYPES, **options}
    options = {"makes_conditions": name in _COMPARISONS, **options}
    return Operation(name, Family.NO_RELEVANCE, function, parameters, is_size=name in _SIZES, **options)


def no_relevance() -> Iterator[Operation]:
    """The operations without relevance."""
    yield _made("getattr", builtins.getattr, {**_INPUT, "name": REQUIRED}, allocates=False)
    # Of parameters only. What moves is not kept between calls, for which a device may not have the memory.
    yield _made("whole", whole, _INPUT, allocates=False, moves=True)
    aliases = {
        "and_": ("and", "bitwise_and"),
        "or_": ("or", "bitwise_or"),
        "xor": ("bitwise_xor",),
        "invert": ("bitwise_not",),
    }
    for name in "eq ne lt le gt ge and_ or_ xor invert not_ is_ is_not contains".split():
        parameters: dict[str, Any] = _INPUT if name in ("invert", "not_") else {**_INPUT, "other": REQUIRED}
        yield _made(name, getattr(operator, name), parameters, aliases=aliases.get(name, ()))
    for name in ("size", "argmax", "argmin"):
        parameters = {**_INPUT, "dim": None, **({} if name == "size" else {"keepdim": False})}
        yield _made(name, getattr(Tensor, name), parameters)
    for name in "dim numel is_floating_point is_complex element_size isnan isinf isfinite logical_not".split():
        yield _made(name, getattr(Tensor, name), _INPUT)
    how = {"dtype": None, "device": None, "requires_grad": False}
    for name in ("zeros_like", "ones_like", "empty_like"):
        yield _made(name, getattr(torch, name), {**_INPUT, **how})
    yield _made("full_like", torch.full_like, {**_INPUT, "fill_value": REQUIRED, **how})
    for name in ("new_zeros", "new_ones", "new_empty"):
        parameters = {**_INPUT, "size": REQUIRED, "dtype": None, "device": None}
        yield _made(name, getattr(Tensor, name), parameters, variadic="size")
    parameters = {**_INPUT, "size": REQUIRED, "fill_value": REQUIRED, "dtype": None, "device": None}
    yield _made("new_full", Tensor.new_full, parameters)
    yield _made("argsort", torch.argsort, {**_INPUT, "dim": -1, "descending": False})
    states = {**_INPUT, "count": REQUIRED, "features": REQUIRED, "batch_dim": REQUIRED}
    yield _made("initial_state", initial_state, states)
    yield _made("attention_mask", attention_mask, {**_INPUT, "heads": REQUIRED}, allocates=False)
    yield _made("padding_mask", padding_mask, _INPUT, allocates=False)
    yield _made("both_masks", both_masks, {**_INPUT, "second": REQUIRED})
    yield _made("attention_scale", attention_scale, _INPUT)
    bags = {**_INPUT, "offsets": REQUIRED, "include_last_offset": False}
    yield _made("largest_in_bags", largest_in_bags, bags)
    yield _made("bag_of_rows", bag_of_rows, {**_INPUT, "offsets": REQUIRED})
    yield _made("causal_mask", causal_mask, {**_INPUT, "key": REQUIRED})
    for function in (reversed_index, last_index, is_padding):
        yield _made(function.__name__, function, {**_INPUT, "lengths": REQUIRED})
    yield _made("longest", longest, _INPUT)
    yield _made("combination_places", combination_places, {**_INPUT, "r": REQUIRED, "with_replacement": REQUIRED})
