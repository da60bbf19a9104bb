"""Declare at its definition that a function of the relevance program returns new memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_ALLOCATES = "__fxlrp_allocates__"
_IN_PLACE = "__fxlrp_in_place__"
_IN_TWO = "__fxlrp_in_place_of_two__"


def allocates(function: FunctionT) -> FunctionT:
    """Declare that the result of a function never shares memory with an argument."""
    setattr(function, _ALLOCATES, True)
    return function


def with_in_place_form(
    in_place: Callable[..., Any], in_two: Callable[..., Any] | None = None
) -> Callable[[FunctionT], FunctionT]:
    """Declare the function that computes the same result in the memory of the first argument.

    Args:
        in_place: The function. It overwrites its first argument only.
        in_two: A function that also overwrites the second argument, for intermediate results.
    """

    def declare(function: FunctionT) -> FunctionT:
        setattr(function, _IN_PLACE, in_place)
        if in_two is not None:
            setattr(function, _IN_TWO, in_two)
        return function

    return declare


def declares_allocation(function: Any) -> bool:
    """Whether a function is declared with :func:`allocates`."""
    return bool(getattr(function, _ALLOCATES, False))


def declared_in_place_form(function: Any) -> Callable[..., Any] | None:
    """The in-place form of a function; None if none is declared."""
    found: Callable[..., Any] | None = getattr(function, _IN_PLACE, None)
    return found


def declared_form_in_two(function: Any) -> Callable[..., Any] | None:
    """The form of a function that overwrites its first two arguments; None if none is declared."""
    found: Callable[..., Any] | None = getattr(function, _IN_TWO, None)
    return found
