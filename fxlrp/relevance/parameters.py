"""Relevance of parameters: of the arguments of a step, and of the values from which a parameter is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, fx

from fxlrp.operation import Operation
from fxlrp.relevance.step import Argument, Contribution, Implementation, Step, no_relevance_of

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_OF_PARAMETERS = "__fxlrp_of_parameters__"


def parameter_relevance(step: Step, how: Implementation, argument: Argument) -> Contribution:
    """Emit the relevance of an argument that does not depend on the input, summed over the batch.

    Args:
        step: The step.
        how: The implementation of its rule.
        argument: The argument.

    Returns:
        The relevance; None if the rule gives the argument none, such as a bias under ``bias=False``.

    Raises:
        UnsupportedOpError: The rule does not define the relevance of the argument.
    """
    if how.of_parameter is None:
        raise no_relevance_of(step, argument)
    return how.of_parameter(step, argument)


def arguments_with_values(operation: Operation, node: fx.Node) -> Iterator[tuple[Argument, fx.Node]]:
    """The arguments of a canonical node that are values: operands by position, others by name."""
    for position, operand in enumerate(operation.operands_of(node)):
        if isinstance(operand, fx.Node):
            yield position, operand
    for name, value in operation.arguments(node).items():
        if name not in operation.operands:
            found: list[fx.Node] = []
            fx.map_arg(value, found.append)
            for each in found:
                yield name, each


def with_parameter_relevance(**by_name: Callable[..., Tensor] | None) -> Callable[[FunctionT], FunctionT]:
    """Declare how a function that computes a parameter from others passes on the relevance of its result.

    Args:
        by_name: For the name of a parameter of the function, a function that returns the relevance of this parameter.
            Its arguments are the relevance of the result, the result, and those of the function. None for a parameter
            that contributes nothing to the result, such as one of which only the type is read.
    """

    def declare(function: FunctionT) -> FunctionT:
        setattr(function, _OF_PARAMETERS, by_name)
        return function

    return declare


def declared_parameter_relevance(function: Any) -> Mapping[str, Callable[..., Tensor] | None]:
    """What is declared with :func:`with_parameter_relevance`; empty if nothing is."""
    found: Mapping[str, Callable[..., Tensor] | None] = getattr(function, _OF_PARAMETERS, {})
    return found
