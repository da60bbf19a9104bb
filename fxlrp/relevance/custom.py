"""Relevance by a user-defined rule, for any operation."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor

from fxlrp.errors import RuleError
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
    function, node = step.rule.function, step.node
    result = step.call(function, *node.args, **node.kwargs, out=node, relevance=step.relevance)
    parts = step.call(checked_relevance, result, *step.operands, rule=str(getattr(function, "__name__", function)))
    return [
        step.call(operator.getitem, parts, position) if position in step.receivers else None
        for position in range(len(step.operands))
    ]


RULES: RuleTable = {Custom: Implementation(_emit_custom)}
