"""Sums, products and matrix products."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import fx

from fxlrp.functions import add_into, multiply_into
from fxlrp.operation import REQUIRED, Call, Family, Gate, OneOf, Operation
from fxlrp.vocabulary import facts

_BINARY = {"input": REQUIRED, "other": REQUIRED}
_BOTH = ("input", "other")


def _product_is_non_negative(call: Call) -> bool:
    a, b = call.operands
    return facts.of_operands(call) or (isinstance(a, fx.Node) and a is b)


def _is_multiple(call: Call) -> bool:
    """One factor is a number other than zero."""
    numbers = [operand for operand in call.operands if isinstance(operand, int)]
    return facts.one_varies(call) and all(number != 0 for number in numbers) and len(numbers) == 1


def _sum_is_positive(call: Call) -> bool:
    a, b = call.operands
    return any(
        call.is_positive(one) and (call.is_positive(other) or call.is_non_negative(other))
        for one, other in ((a, b), (b, a))
    )


def _quotient_is_finite(call: Call) -> bool:
    other = call.arguments["other"]
    is_number = isinstance(other, int | float) and other != 0
    return facts.finite_operands(call) and (is_number or call.is_positive(other))


def _reciprocal_is_statistic(call: Call, dependent: Collection[Any]) -> Gate:
    """If only the denominator depends on the input, the quotient is a scale computed from the input."""
    return Gate.NO if call.operands[0] in dependent else Gate.STATISTIC


def arithmetic() -> Iterator[Operation]:
    """The operations with several operands."""
    yield Operation(
        "add",
        Family.SUM,
        operator.add,
        _BINARY,
        _BOTH,
        allocates=True,
        rowwise=facts.always,
        in_place=add_into,
        non_negative=facts.of_operands,
        positive=_sum_is_positive,
        finite=facts.finite_operands,
        neutral=True,
        maps_tokens=facts.one_varies,
    )
    yield Operation(
        "sub",
        Family.SUM,
        operator.sub,
        _BINARY,
        _BOTH,
        aliases=("subtract",),
        allocates=True,
        rowwise=facts.always,
        finite=facts.finite_operands,
        neutral=True,
        maps_tokens=facts.one_varies,
    )
    yield Operation(
        "mul",
        Family.PRODUCT,
        operator.mul,
        _BINARY,
        _BOTH,
        aliases=("multiply",),
        allocates=True,
        rowwise=facts.always,
        in_place=multiply_into,
        non_negative=_product_is_non_negative,
        finite=facts.finite_operands,
        neutral=True,
        maps_tokens=_is_multiple,
    )
    yield Operation(
        "div",
        Family.PRODUCT,
        operator.truediv,
        {**_BINARY, "rounding_mode": None},
        aliases=("truediv", "true_divide", "divide"),
        held_constant=("other",),
        required_values={"rounding_mode": OneOf((None, "floor", "trunc"))},
        allocates=True,
        rowwise=facts.always,
        non_negative=facts.of_arguments("input", "other"),
        finite=_quotient_is_finite,
        neutral=True,
        gate=_reciprocal_is_statistic,
    )
    yield Operation(
        "matmul",
        Family.MATMUL,
        torch.matmul,
        _BINARY,
        _BOTH,
        aliases=("bmm", "mm", "mv", "dot", "_sparse_mm"),
        allocates=True,
        finite=facts.finite_operands,
    )
    yield Operation(
        "einsum",
        Family.MATMUL,
        torch.einsum,
        {"equation": REQUIRED, "operands": REQUIRED},
        ("operands",),
        variadic="operands",
        finite=facts.finite_operands,
    )
