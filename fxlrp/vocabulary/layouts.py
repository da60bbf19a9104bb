"""Changes of the layout of a tensor on several devices. The tensor as a whole stays the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fxlrp import layouts as functions
from fxlrp.operation import REQUIRED, Family, Operation
from fxlrp.vocabulary import facts


def layouts() -> Iterator[Operation]:
    """The operations that models on several devices call at the boundaries of their modules."""
    yield _layout("from_local", functions.from_local, {"like": REQUIRED, "layout": REQUIRED})
    yield _layout("redistribute", functions.redistribute, {"layout": REQUIRED})
    yield _layout("to_local", functions.to_local, {})


def _layout(name: str, function: Callable[..., Any], parameters: dict[str, Any]) -> Operation:
    return Operation(
        name,
        Family.SHAPE,
        function,
        {"input": REQUIRED, **parameters},
        keeps_support=facts.always,
        non_negative=facts.of_operands,
        finite=facts.finite_operands,
        moves=True,
        keeps_elements=True,
        arranges=True,
        keeps_dimensions=True,
        neutral=True,
    )
