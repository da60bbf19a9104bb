"""Which values of an argument are right, written from the documentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor

Right = Callable[[Any], bool]
LARGEST = float(torch.finfo(torch.float32).max)


def never(value: Any) -> bool:
    """No value of the pool is right."""
    return False


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def nothing(value: Any) -> bool:
    return value is None


def one_of(*values: Any) -> Right:
    return lambda value: any(type(value) is type(each) and value == each for each in values)


def text(value: Any) -> bool:
    return isinstance(value, str)


def any_of(*rights: Right) -> Right:
    return lambda value: any(right(value) for right in rights)


def optional(*rights: Right) -> Right:
    return any_of(nothing, *rights)


def whole(least: int = 1, most: int | None = None) -> Right:
    def holds(value: Any) -> bool:
        is_whole = isinstance(value, int | numpy.integer) and not isinstance(value, bool)
        return is_whole and value >= least and (most is None or value <= most)

    return holds


def number(least: float = 0.0, most: float = LARGEST) -> Right:
    def holds(value: Any) -> bool:
        is_number = hasattr(value, "__float__") and not isinstance(value, bool | numpy.bool_ | Tensor | numpy.ndarray)
        decimal = type(value).__name__ in ("Decimal", "str_")
        return is_number and not decimal and least <= value <= most

    return holds


def empty(value: Any) -> bool:
    return isinstance(value, list | tuple) and not value


def function(value: Any) -> bool:
    """The functions of the pool that return what they take."""
    return callable(value) and getattr(value, "__name__", "") == "identity"


def dense(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_nested and value.layout == torch.strided and not value.is_meta


def features(value: Any) -> bool:
    """Inputs of a dense layer of four features."""
    return dense(value) and value.dtype == torch.float32 and value.dim() > 0 and value.shape[-1] == 4


def image(value: Any) -> bool:
    is_image = dense(value) and value.dtype == torch.float32 and value.dim() == 4
    return is_image and value.shape[1] == 3 and min(value.shape[2:]) > 2


def ids(value: Any) -> bool:
    is_ids = dense(value) and value.dtype == torch.int64 and value.dim() in (1, 2)
    return is_ids and bool(((value >= 0) & (value < 7)).all())


def class_of(classes: int, batch: int = 2) -> Right:
    """Targets of an output ``(batch, classes)``."""

    def index(value: Any) -> bool:
        if isinstance(value, slice):
            return value.step != 0 and all(end is None or isinstance(end, int) for end in (value.start, value.stop))
        if value is ... or whole(-classes, classes - 1)(value):
            return True
        if not isinstance(value, list | Tensor | numpy.ndarray):
            return False
        given = torch.as_tensor(value)
        is_fitting = tuple(given.shape) in ((), (1,), (batch,), (1, 1), (batch, 1))
        is_whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
        return is_fitting and is_whole and bool(((given >= -classes) & (given < classes)).all())

    return lambda value: index(value[0]) if isinstance(value, tuple) and len(value) == 1 else index(value)


def names(*known: str) -> Right:
    """One of some names, or a list of them."""
    one = one_of(*known)
    return lambda value: one(value) or (isinstance(value, list | tuple) and len(value) > 0 and all(map(one, value)))


def channels(count: int) -> Right:
    """Conditions on a value with channels: some of them."""

    def holds(value: Any) -> bool:
        if whole(-count, count - 1)(value) or function(value):
            return True
        if isinstance(value, bool | set | dict | str) or value is None:
            return False
        given = torch.as_tensor(value)
        is_whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
        return given.numel() == 0 or (is_whole and bool(((given >= -count) & (given < count)).all()))

    return holds
