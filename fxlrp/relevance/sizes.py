"""The check of the sizes for which a derived relevance step is valid, when the program runs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from fxlrp.errors import InputError

Size: TypeAlias = "int | float | str"
Sizes: TypeAlias = "tuple[Size, ...] | Size"
# A number, the name of a size, or an operation on such terms: ("<=", "n0", 25).
Term: TypeAlias = "int | str | tuple[Any, ...]"

_OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "+": operator.add,
    "*": operator.mul,
    "%": operator.mod,
    "//": operator.floordiv,
}


class OtherSizesError(InputError):
    """A derived relevance step is not valid for the sizes of a call."""


def expect_sizes(
    passed: Tensor, values: Sequence[Any], sizes: Sequence[Sizes], conditions: Sequence[Term], operation: str
) -> Tensor:
    """Return ``passed``, if the values have sizes for which the step of an operation is valid.

    Args:
        passed: What the step reads: the relevance that it receives, or an operand.
        values: The tensors and sizes that the step reads.
        sizes: The sizes of each tensor, or the value of each size. Equal names stand for equal sizes.
        conditions: Conditions on the named sizes.
        operation: The name of the operation.

    Raises:
        OtherSizesError: A size differs, or a condition does not hold.
    """
    named: dict[str, Any] = {}
    fits = True
    for value, expected in zip(values, sizes, strict=True):
        actual = tuple(value.shape) if isinstance(value, Tensor) else (value,)
        wanted = expected if isinstance(expected, tuple) else (expected,)
        fits = fits and len(actual) == len(wanted)
        for size, want in zip(actual, wanted, strict=False):
            fits = fits and size == (named.setdefault(want, size) if isinstance(want, str) else want)
    if not (fits and all(_value(condition, named) for condition in conditions)):
        shapes = ", ".join(str(tuple(value.shape)) for value in values if isinstance(value, Tensor))
        raise OtherSizesError(
            f"the relevance step of {operation} is valid for arguments of the sizes {', '.join(map(str, sizes))}, not "
            f"for {shapes}: compile with example_inputs of these sizes"
        )
    return passed


def _value(term: Term, named: Mapping[str, Any]) -> Any:
    if isinstance(term, tuple):
        function, first, *rest = _OPERATIONS[term[0]], *(_value(each, named) for each in term[1:])
        for each in rest:
            first = function(first, each)
        return first
    return named[term] if isinstance(term, str) else term
