"""The form of a recipe: what must be in the file, before any of it is used."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from fxlrp.capture import FRONT_ENDS
from fxlrp.file_format import (
    Check,
    Malformed,
    anything,
    by_type,
    flag,
    index,
    list_of,
    mapping_of,
    nothing,
    number,
    one_of,
    record,
    size,
    text,
)
from fxlrp.optimizations import Optimizations

FORMAT = 1
HINTS = {"AUTO": torch.export.Dim.AUTO, "DYNAMIC": torch.export.Dim.DYNAMIC, "STATIC": torch.export.Dim.STATIC}
# Shapes of inputs that are sequences of mappings of sequences have three levels.
_MOST_LEVELS = 8
# A file must not make the process ask for more memory than an example can sensibly have.
_MOST_BYTES = 2**34


def _open_sizes(value: Any, place: str, level: int = 0) -> None:
    """What ``dynamic_shapes`` may contain, as :mod:`fxlrp.recipe.recipe` writes it."""
    if level > _MOST_LEVELS:
        raise Malformed(f"{place} has too many levels")
    if not isinstance(value, dict):
        by_type("null, a number or a mapping", {type(None): nothing, int: size})(value, place)
        return
    if len(value) != 1 or not value.keys() <= {"mapping", "sequence", "hint"}:
        raise Malformed(f"{place} must have one of the entries 'mapping', 'sequence' and 'hint'")
    ((kind, inner),) = value.items()
    if kind == "hint":
        one_of(*HINTS)(inner, place)
        return
    list_of(anything)(inner, place)
    for position, each in enumerate(inner):
        where = f"{place}[{position}]"
        if kind == "mapping":
            list_of(anything)(each, where)
            if len(each) != 2:
                raise Malformed(f"{where} must be a key and a value")
            by_type("a name or a dimension", {str: text, int: size})(each[0], where)
        _open_sizes(each[1] if kind == "mapping" else each, where, level + 1)


def _named_sizes(value: Any, place: str) -> None:
    if value is not None and (not isinstance(value, dict) or value.keys() != {"mapping"}):
        raise Malformed(f"{place} must be null or a mapping")
    _open_sizes(value, place)


def _dtype(value: Any, place: str) -> None:
    text(value, place)
    if not isinstance(getattr(torch, value, None), torch.dtype):
        raise Malformed(f"{place} is {value!r}, which is not a type of tensors")


_spec = record({"shape": list_of(size), "dtype": _dtype})


def _bytes(spec: dict[str, Any]) -> int:
    """The memory of an example, or more than there may be."""
    needed = int(getattr(torch, spec["dtype"]).itemsize)
    for each in sorted(spec["shape"]):
        needed *= each
        if needed > _MOST_BYTES:
            break
    return needed


def _example_inputs(value: Any, place: str) -> None:
    _examples(value, place)
    if sum(map(_bytes, _specs(value))) > _MOST_BYTES:
        raise Malformed(f"{place} needs more than {_MOST_BYTES >> 30} GiB of memory")


_scalar = by_type(
    "a string, a number, true, false or null", {str: text, int: number, float: number, bool: flag, type(None): nothing}
)


def _element(value: Any, place: str, level: int = 0) -> None:
    """An input, as :mod:`fxlrp.recipe.examples` writes it: a tensor, a constant, or a container of these."""
    if level > _MOST_LEVELS:
        raise Malformed(f"{place} has too many levels")
    if not isinstance(value, dict) or len(value) != 1:
        raise Malformed(f"{place} must be a mapping with one entry")
    ((kind, inner),) = value.items()
    where = f"{place}.{kind}"

    def below(each: Any, place: str) -> None:
        _element(each, place, level + 1)

    kinds: dict[str, Check] = {
        "tensor": _spec,
        "constant": _scalar,
        "dict": mapping_of(below),
        **dict.fromkeys(("list", "tuple"), list_of(below)),
    }
    one_of(*kinds)(kind, place)
    kinds[kind](inner, where)


def _positional(value: Any, place: str) -> None:
    is_spec = isinstance(value, dict) and "shape" in value
    (_spec if is_spec else _element)(value, place)


def _specs(value: Any) -> list[dict[str, Any]]:
    """The tensors among checked example inputs."""
    if isinstance(value, list):
        return [spec for each in value for spec in _specs(each)]
    if not isinstance(value, dict):
        return []
    is_spec = value.keys() == {"shape", "dtype"} and isinstance(value["shape"], list)
    return [value] if is_spec else [spec for each in value.values() for spec in _specs(each)]


_examples = by_type(
    "null, a list or a mapping",
    {
        type(None): nothing,
        list: list_of(_positional),
        dict: record(
            {"tensors": mapping_of(_spec), "constants": mapping_of(_scalar)}, {"containers": mapping_of(_element)}
        ),
    },
)
_key = by_type("an index or a key", {int: index, str: text})


_bound = record({"shape": list_of(size), "values": list_of(number)})


def _parameter(value: Any, place: str, level: int = 0) -> None:
    """A parameter of a rule: a scalar, or numbers with some dimensions, such as one bound for each channel."""
    if isinstance(value, dict):
        _bound(value, place)
        return
    if not isinstance(value, list):
        _scalar(value, place)
        return
    if level > _MOST_LEVELS:
        raise Malformed(f"{place} has too many levels")
    for position, each in enumerate(value):
        _parameter(each, f"{place}[{position}]", level + 1)


def _rule(value: Any, place: str) -> None:
    mapping_of(_parameter)(value, place)
    record({"rule": text})(value, place)


_selector = mapping_of(by_type("a name or a list of names", {str: text, list: list_of(text)}))
_pair = record({"selector": _selector, "rule": _rule, "origin": text})
_tensor = record({"shape": list_of(size), "dtype": text, "values": text})

RECIPE: Check = record(
    {
        "versions": mapping_of(text),
        "rules": record({"name": text, "epsilon": number, "pairs": list_of(_pair)}),
        "front_end": one_of(*FRONT_ENDS),
        "example_inputs": _example_inputs,
        "output": by_type(
            "null, an index, a key or a list of these",
            {type(None): nothing, int: index, str: text, list: list_of(_key)},
        ),
        "at": by_type("null, a name or a list of names", {type(None): nothing, str: text, list: list_of(text)}),
        "dynamic_shapes": _named_sizes,
        "optimizations": record({}, {field.name: flag for field in dataclasses.fields(Optimizations)}),
        "segments": by_type("null or a number", {type(None): nothing, int: size}),
        "extensions": list_of(text),
        "model": record({"class": text, "structure": text, "tensors": mapping_of(_tensor)}),
        "graph": text,
    },
    # Recipes of version 0.1 do not contain passes, and those of version 0.2 no constants.
    {"passes": list_of(text), "constants": list_of(text), "differentiable": flag},
)
