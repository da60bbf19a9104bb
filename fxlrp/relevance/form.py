"""The form of a tensor: its shape and type without its values, which then need not be kept in memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, fx

from fxlrp.layouts import Places, places_of

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_READS_FORM = "__fxlrp_reads_form__"


class Form(NamedTuple):
    """The shape, type and device of a tensor, and where its parts are, if it lies on several devices."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    places: Places | None = None

    def dim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def size(self, dim: int) -> int:
        """The size of a dimension."""
        return self.shape[dim]

    def is_floating_point(self) -> bool:
        """Whether the type is real."""
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        """Whether the type is complex."""
        return self.dtype.is_complex


def form_of(value: Tensor) -> Form:
    """The form of a tensor."""
    return Form(value.shape, value.dtype, value.device, places_of(value))


def reads_form(*names: str) -> Callable[[FunctionT], FunctionT]:
    """Declare the parameters of which a function reads only the form; it accepts a :class:`Form` in their place."""

    def declare(function: FunctionT) -> FunctionT:
        parameters = list(inspect.signature(function).parameters)
        setattr(function, _READS_FORM, frozenset(parameters.index(name) for name in names))
        return function

    return declare


def forms_of(function: Any) -> frozenset[int]:
    """The positions of the parameters of which a function reads only the form."""
    found: frozenset[int] = getattr(function, _READS_FORM, frozenset())
    return found


def reads_values(user: fx.Node, value: fx.Node) -> bool:
    """Whether a node reads the elements of a value, not only its form."""
    forms = forms_of(user.target)
    others: list[Any] = [argument for position, argument in enumerate(user.args) if position not in forms]
    found: list[fx.Node] = []
    fx.map_arg((others, user.kwargs), found.append)
    return value in found
