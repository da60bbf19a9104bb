"""Values in containers: dictionaries, sequences, dataclasses, and what ``torch.utils._pytree`` knows."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch.utils._pytree as pytree
from torch import Tensor

from fxlrp.errors import InputError

_MOST_LEVELS = 100


@dataclasses.dataclass(frozen=True)
class Slot:
    """The place of a tensor in containers from which the tensors were taken."""

    name: str


class Container(NamedTuple):
    """A container, one level deep.

    Args:
        keys: The names of its elements.
        elements: The elements, in the same order.
        rebuilt: Makes the same container of other elements.
    """

    keys: tuple[str, ...]
    elements: tuple[Any, ...]
    rebuilt: Callable[[Sequence[Any]], Any]


def container(value: Any) -> Container | None:
    """Take a container apart; None for a value that is not one.

    Dataclasses and mappings that pytree does not know are containers, too.
    """
    if isinstance(value, Tensor | Slot | bool | int | float | str | None):
        return None
    # One level: everything below the value is a leaf, also where a list contains itself.
    first = iter([False])
    elements, structure = pytree.tree_flatten(value, is_leaf=lambda _: next(first, True))
    if not structure.is_leaf():
        keys = _keys(value, len(elements))
        return Container(keys, tuple(elements), lambda others: pytree.tree_unflatten(list(others), structure))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = tuple(field.name for field in dataclasses.fields(value) if hasattr(value, field.name))
        return Container(
            names, tuple(getattr(value, name) for name in names), lambda others: _set(value, names, others)
        )
    if isinstance(value, Mapping):
        known = tuple(value)
        return Container(tuple(map(str, known)), tuple(value.values()), lambda others: _put(value, known, others))
    return None


def _keys(value: Any, count: int) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        return tuple(map(str, value))
    if pytree.is_namedtuple_instance(value):
        return tuple(value._fields)
    return tuple(str(index) for index in range(count))


def _set(value: Any, names: Sequence[str], elements: Sequence[Any]) -> Any:
    """A copy of a dataclass, which may be frozen, without its ``__init__``."""
    made = copy.copy(value)
    for name, element in zip(names, elements, strict=True):
        object.__setattr__(made, name, element)
    return made


def _put(value: Any, keys: Sequence[Any], elements: Sequence[Any]) -> Any:
    made = copy.copy(value)
    for key, element in zip(keys, elements, strict=True):
        made[key] = element
    return made


def leaves(value: Any, name: str = "", level: int = 0) -> Iterator[tuple[str, Any]]:
    """The leaves of a value with their names, such as ``batch.image``, in order.

    Raises:
        InputError: The value has too many levels of containers.
    """
    parts = _next_level(value, name, level)
    if parts is None:
        yield name, value
        return
    for key, element in zip(parts.keys, parts.elements, strict=True):
        yield from leaves(element, f"{name}.{key}" if name else key, level + 1)


def replaced(value: Any, new: Callable[[str, Any], Any], name: str = "", level: int = 0) -> Any:
    """The same containers with ``new(name, leaf)`` in place of every leaf.

    Raises:
        InputError: The value has too many levels of containers.
    """
    parts = _next_level(value, name, level)
    if parts is None:
        return new(name, value)
    elements = [
        replaced(element, new, f"{name}.{key}" if name else key, level + 1)
        for key, element in zip(parts.keys, parts.elements, strict=True)
    ]
    return parts.rebuilt(elements)


def _next_level(value: Any, name: str, level: int) -> Container | None:
    parts = container(value)
    if parts is not None and level == _MOST_LEVELS:
        where = name.partition(".")[0] or "a value"
        raise InputError(f"{where} has more than {_MOST_LEVELS} levels of containers, or contains itself: flatten it")
    return parts


def filled(template: Any, values: Mapping[str, Any]) -> Any:
    """The containers of ``template`` with the value of its name in every slot."""
    if isinstance(template, Slot):
        return values[template.name]
    if container(template) is None:
        return template
    return replaced(template, lambda _, leaf: values[leaf.name] if isinstance(leaf, Slot) else leaf)
