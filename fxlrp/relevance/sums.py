"""Relevance of sums: skip connections, additions and subtractions, hand-written biases.

With gradient-style accumulation a skip connection would double relevance. Here every sum divides it among its operands.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from fxlrp.relevance.numerics import part, stabilize, unbroadcast
from fxlrp.relevance.proportional import LinearMap, by_function, derivatives, epsilons_by_name
from fxlrp.relevance.step import (
    Absorber,
    Argument,
    Choice,
    Contribution,
    Contributions,
    Implementation,
    Receivers,
    RuleTable,
    Step,
    like_receiver,
)
from fxlrp.rules.specs import Equal, Magnitude, Only


def subtrahend_transposed(u: Tensor, b: Tensor) -> Tensor:
    """``A^T(u)`` of the operand that is subtracted."""
    return unbroadcast(-u, b)


def _difference_transposed(step: Step, u: fx.Node, position: int) -> fx.Node:
    return step.call(subtrahend_transposed if position else unbroadcast, u, step.operands[position])


def add_magnitude(a: Tensor, b: Tensor | float, r: Tensor, *, stabilizer: float) -> Tensor:
    """``R_a = R |a| / (|a| + |b|)``, for ``c = a + b`` and ``c = a - b`` alike."""
    return unbroadcast(a.abs() * (r / stabilize(a.abs() + _magnitude(b), stabilizer)), a)


def _magnitude(value: Tensor | float) -> Tensor | float:
    return value.abs() if isinstance(value, Tensor) else abs(value)


def _emit_magnitude(step: Step) -> Contributions:
    rule, operands = step.rule, step.operands
    assert isinstance(rule, Magnitude)

    def contribution(position: int, own: Any) -> fx.Node:
        return step.call(add_magnitude, own, operands[1 - position], step.relevance, stabilizer=rule.stabilizer)

    return step.to_receivers(contribution)


def _emit_part(step: Step) -> Contributions:
    share = 1 / len(step.receivers)
    return step.to_receivers(lambda _, operand: step.call(part, operand, step.relevance, share=share))


def _of_no_parameter(step: Step, argument: Argument) -> Contribution:
    return None


def _of_chosen_parameter(step: Step, argument: Argument) -> Contribution:
    assert isinstance(step.rule, Only)
    return like_receiver(_emit_part)(step, argument) if argument == step.rule.operand else None


def _only(choice: Choice) -> Receivers:
    assert isinstance(choice.rule, Only)
    chosen = choice.rule.operand
    if chosen in choice.dependent:
        return Receivers((chosen,), f"all to operand {chosen}")
    return Receivers((), f"all to operand {chosen}, which does not depend on the input")


_MAPS = {"add": by_function(unbroadcast), "sub": _difference_transposed}

RULES: RuleTable = {
    **derivatives(_MAPS),
    **epsilons_by_name({name: LinearMap(each, absorber=Absorber.OPERANDS) for name, each in _MAPS.items()}),
    Magnitude: Implementation(_emit_magnitude, of_parameter=like_receiver(_emit_magnitude), vanishes=True),
    Equal: Implementation(_emit_part, of_parameter=_of_no_parameter),
    Only: Implementation(_emit_part, _only, of_parameter=_of_chosen_parameter),
}
