"""Relevance by a user-defined rule, for any operation."""

from __future__ import annotations

import inspect
import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any

from torch import Tensor

from fxlrp.errors import RuleError
from fxlrp.operation import REQUIRED
from fxlrp.relevance.numerics import as_type_of
from fxlrp.relevance.step import Contributions, Implementation, RuleTable, Step
from fxlrp.rules.specs import Custom


def checked_relevance(relevance: Any, *operands: Any, rule: str) -> tuple[Tensor, ...]:
    """Check the result of a user-defined rule, and return one relevance for each operand, in the type of the operand.

    Raises:
        RuleError: The number of tensors or their shapes do not match the operands.
    """
    single = len(operands) == 1
    if isinstance(relevance, Tensor) if single else isinstance(relevance, tuple | list):
        parts = (relevance,) if single else tuple(relevance)
    else:
        raise RuleError(
            f"the rule {rule} must return {'a tensor' if single else 'a tuple of tensors'}, not a "
            f"{type(relevance).__name__}: one tensor for each of {len(operands)} operands"
        )
    if len(parts) != len(operands):
        raise RuleError(f"the rule {rule} returned {len(parts)} tensors for {len(operands)} operands")
    for part, operand in zip(parts, operands, strict=True):
        if isinstance(operand, Tensor) and (not isinstance(part, Tensor) or part.shape != operand.shape):
            got = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise RuleError(f"the rule {rule} returned {got} for an operand of shape {tuple(operand.shape)}")
    return tuple(
        as_type_of(part, operand) if isinstance(operand, Tensor) else part
        for part, operand in zip(parts, operands, strict=True)
    )


def _emit_custom(step: Step) -> Contributions:
    assert isinstance(step.rule, Custom)
    function = step.rule.function
    name = str(getattr(function, "__name__", function))
    args, kwargs = _arguments(function, name, step)
    result = step.call(_with_name(function), *args, **kwargs)
    parts = step.call(checked_relevance, result, *step.operands, rule=f"{name} at {step.node.name!r}")
    return [
        step.call(operator.getitem, parts, position) if position in step.receivers else None
        for position in range(len(step.operands))
    ]


def _with_name(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that torch.fx can name in generated code: it would look for the name of a lambda in its source."""
    if function.__name__ != "<lambda>":
        return function

    def rule(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return rule


def _arguments(function: Callable[..., Any], name: str, step: Step) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The arguments that the signature of a user-defined rule names.

    A parameter takes the argument of its name. A parameter with another name and without a default takes the next
    argument that no parameter names. ``*args`` takes the positional arguments of the call in the graph, and
    ``**kwargs`` all others that differ from their defaults.

    Raises:
        RuleError: A parameter finds no argument, or the function is written in C and does not tell its parameters.
    """
    computed = {"out": step.node, "relevance": step.relevance}
    try:
        signature = inspect.signature(function)
    except ValueError as error:
        raise RuleError(f"the arguments of the rule {name} are unknown; wrap it in a Python function") from error
    parameters = signature.parameters
    kinds = {parameter.kind: parameter.name for parameter in parameters.values()}
    if Parameter.VAR_POSITIONAL in kinds:
        by_name = {**step.node.kwargs, **computed}
        anything = Parameter.VAR_KEYWORD in kinds
        return step.node.args, {key: value for key, value in by_name.items() if anything or key in parameters}
    given = _given(step)
    available = {**given, **computed}
    unnamed = [key for key in given if key not in parameters]
    found: OrderedDict[str, Any] = OrderedDict()
    for parameter in parameters.values():
        if parameter.name in available:
            found[parameter.name] = available.pop(parameter.name)
        elif parameter.default is parameter.empty and parameter.kind is not Parameter.VAR_KEYWORD:
            if parameter.kind is Parameter.KEYWORD_ONLY or not unnamed:
                raise RuleError(
                    f"the rule {name} has a parameter {parameter.name!r}, for which {step.operation.name} has no "
                    f"argument: it has {', '.join(given)}, and a rule may also take out and relevance"
                )
            found[parameter.name] = available.pop(unnamed.pop(0))
    if Parameter.VAR_KEYWORD in kinds:
        defaults = {} if step.operation.signatures else step.operation.parameters
        is_default = {key for key in available if defaults.get(key, REQUIRED) is not REQUIRED} - step.node.kwargs.keys()
        others = {key: value for key, value in available.items() if key in computed or key not in is_default}
        found[kinds[Parameter.VAR_KEYWORD]] = others
    bound = inspect.BoundArguments(signature, found)
    return bound.args, bound.kwargs


def _given(step: Step) -> dict[str, Any]:
    """The arguments of the call by name, with their defaults."""
    arguments = step.arguments
    if not step.operation.keeps_arguments:
        return arguments
    others = {f"argument_{index}": value for index, value in enumerate(arguments["args"], 1)}
    return {"input": arguments["input"], **others, **arguments["kwargs"]}


RULES: RuleTable = {Custom: Implementation(_emit_custom)}
