"""Relevance of sums: skip connections, additions and subtractions, biases written by hand.

With autograd-style accumulation a skip connection doubles relevance; here every sum shares it among its operands.
"""

from __future__ import annotations

import operator

from torch import Tensor

from fxlrp.program import Relevance
from fxlrp.relevance.numerics import part, stabilize, unbroadcast
from fxlrp.relevance.quotients import over_value
from fxlrp.relevance.step import Choice, Contributions, Implementation, Receivers, RuleTable, Step
from fxlrp.rules.specs import Epsilon, Equal, Magnitude, Only


def add_epsilon(a: Tensor, out: Tensor, r: Tensor, *, epsilon: float) -> Tensor:
    """``R_a = a * R / s(c)`` for ``c = a + b`` (Bach et al., 2015); a constant operand takes its share."""
    return unbroadcast(a * (r / stabilize(out, epsilon)), a)


def subtract_epsilon(b: Tensor, out: Tensor, r: Tensor, *, epsilon: float) -> Tensor:
    """``R_b = -b * R / s(c)`` for ``c = a - b``."""
    return unbroadcast(-b * (r / stabilize(out, epsilon)), b)


def add_magnitude(a: Tensor, b: Tensor | float, r: Tensor, *, stabilizer: float) -> Tensor:
    """``R_a = R |a| / (|a| + |b|)``, for ``c = a + b`` and ``c = a - b`` alike."""
    return unbroadcast(a.abs() * (r / stabilize(a.abs() + _magnitude(b), stabilizer)), a)


def _magnitude(value: Tensor | float) -> Tensor | float:
    return value.abs() if isinstance(value, Tensor) else abs(value)


def _emit_epsilon(step: Step) -> Contributions:
    assert isinstance(step.rule, Epsilon)
    functions = (add_epsilon, subtract_epsilon if step.operation.name == "sub" else add_epsilon)
    return [
        step.call(function, operand, step.node, step.relevance, epsilon=step.rule.epsilon)
        if position in step.receivers
        else None
        for position, (operand, function) in enumerate(zip(step.operands, functions, strict=True))
    ]


def _specialize_epsilon(step: Step) -> Contributions | None:
    """``C_a = R / s(c)`` for either operand, ``-R / s(c)`` for one that is subtracted."""
    assert isinstance(step.rule, Epsilon)
    if not step.facts.quotients:
        return None
    shared = over_value(step, step.rule.epsilon)
    contributions: list[Relevance | None] = []
    for position, operand in enumerate(step.operands):
        if position not in step.receivers:
            contributions.append(None)
            continue
        subtracted = step.operation.name == "sub" and position == 1
        factor = step.call(operator.neg, shared) if subtracted else shared
        contributions.append(step.times(operand, step.call(unbroadcast, factor, operand)))
    return contributions


def _emit_magnitude(step: Step) -> Contributions:
    assert isinstance(step.rule, Magnitude)
    a, b = step.operands
    return [
        step.call(add_magnitude, own, other, step.relevance, stabilizer=step.rule.stabilizer)
        if position in step.receivers
        else None
        for position, (own, other) in enumerate(((a, b), (b, a)))
    ]


def _emit_part(step: Step) -> Contributions:
    share = 1 / len(step.receivers)
    return step.to_receivers(lambda operand: step.call(part, operand, step.relevance, share=share))


def _only(choice: Choice) -> Receivers:
    assert isinstance(choice.rule, Only)
    chosen = choice.rule.operand
    if chosen in choice.dependent:
        return Receivers((chosen,), f"all to operand {chosen}")
    return Receivers((), f"all to operand {chosen}, which does not depend on the input")


RULES: RuleTable = {
    Epsilon: Implementation(_emit_epsilon, specialize=_specialize_epsilon),
    Magnitude: Implementation(_emit_magnitude),
    Equal: Implementation(_emit_part),
    Only: Implementation(_emit_part, _only),
}
