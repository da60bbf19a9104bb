"""Facts about calls that several rows of the vocabulary state: mostly, when a result is never negative."""

from __future__ import annotations

from fxlrp.operation import Call, Fact


def always(call: Call) -> bool:
    """The result is never negative, whatever the operands."""
    return True


def of_operands(call: Call) -> bool:
    """The result is never negative where no operand ever is: it sums them up, or bends what is negative only."""
    return all(call.is_non_negative(operand) for operand in call.operands)


def of_arguments(*names: str) -> Fact:
    """The result is never negative where none of the named arguments ever is; None stands for zero."""

    def fact(call: Call) -> bool:
        values = (call.arguments.get(name) for name in names)
        return all(value is None or call.is_non_negative(value) for value in values)

    return fact


def of_operands_filled_with(*names: str) -> Fact:
    """The result consists of elements of the operands, and of the named numbers; None stands for zero."""
    fills = of_arguments(*names)

    def fact(call: Call) -> bool:
        return of_operands(call) and fills(call)

    return fact
