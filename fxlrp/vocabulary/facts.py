"""Facts that several rows of the vocabulary state: the sign and finiteness of results, and what becomes of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from fxlrp.operation import Call, Fact


def always(call: Call) -> bool:
    """The fact holds for every call."""
    return True


def of_operands(call: Call) -> bool:
    """The result is non-negative if all operands are: it is their sum, or differs from them where negative only."""
    return all(call.is_non_negative(operand) for operand in call.operands)


def of_arguments(*names: str) -> Fact:
    """The result is non-negative if all named arguments are; None counts as zero."""

    def fact(call: Call) -> bool:
        values = (call.arguments.get(name) for name in names)
        return all(value is None or call.is_non_negative(value) for value in values)

    return fact


def of_operands_filled_with(*names: str) -> Fact:
    """The result consists of elements of the operands and the named numbers; None counts as zero."""
    fills = of_arguments(*names)

    def fact(call: Call) -> bool:
        return of_operands(call) and fills(call)

    return fact


def one_varies(call: Call) -> bool:
    """Only one operand is not constant: a sum with constants maps its values one to one."""
    return sum(isinstance(operand, fx.Node) and operand not in call.known for operand in call.operands) == 1


def finite_operands(call: Call) -> bool:
    """The result is finite if all operands are."""
    return all(call.is_finite(operand) for operand in call.operands)


def finite_operands_and(*names: str) -> Fact:
    """The result is finite if all operands and the named numbers are; None counts as a finite number."""

    def fact(call: Call) -> bool:
        values = (call.arguments.get(name) for name in names)
        return finite_operands(call) and all(value is None or call.is_finite(value) for value in values)

    return fact


def along_rows(call: Call) -> bool:
    """The call reduces the last dimension, or normalizes along it."""
    dim, keeps = call.arguments["dim"], call.arguments.get("keepdim", True)
    return keeps is True and (dim == -1 or (isinstance(dim, list | tuple) and tuple(dim) == (-1,)))


def arguments_named(*names: str) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """The arguments with these names are added to what is linear in the operands; None is nothing."""
    return lambda arguments: [arguments[name] for name in names if arguments[name] is not None]
