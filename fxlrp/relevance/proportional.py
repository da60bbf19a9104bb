"""LRP-epsilon for every operation that is linear in its operands, derived from its maps.

``z = sum_i A_i x_i + b`` divides relevance in proportion to the contributions, ``R_i = x_i * A_i^T(R / s(z))`` (Bach et
al., 2015). An operation declares only its transposed map. Both forms of the rule follow from it: the relevance ``R_i``
and the quotient ``A_i^T(R / s(z))`` of ``x_i``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor, fx

from fxlrp.operation import Operation
from fxlrp.program import Relevance
from fxlrp.relevance.held import FACTORS, Frozen
from fxlrp.relevance.numerics import stabilize, stabilize_clipped, stabilize_relative
from fxlrp.relevance.quotients import over, over_value
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
    all_dependent,
    no_relevance_of,
)
from fxlrp.rules.rule import Rule
from fxlrp.rules.specs import (
    EPSILONS,
    Backpropagation,
    ClippedEpsilon,
    Epsilon,
    Gradient,
    Magnitude,
    RelativeEpsilon,
    SignalTakeAll,
)

TransposedMap: TypeAlias = "Callable[[Step, fx.Node, int], fx.Node]"


@dataclass(frozen=True)
class LinearMap:
    """An operation that is linear in its operands.

    Args:
        transposed: Emits ``A_i^T(u)``, given the step, ``u`` and the position of the operand.
        contributions: Emits the terms of the sum, if they are not the operand itself.
        total: Emits the sum ``z``, if it is not the value of the node.
        without_bias: Emits ``z`` without the constant ``b``; returns None if there is no constant.
        are_factors: Whether the operands are factors of a product, which receive equal shares (Achtibat et al., 2024).
        absorber: What absorbs relevance beside the stabilizer; None if unknown.
        frozen: What the rule holds constant, if the operation is not affine in its operands; see
            :class:`~fxlrp.relevance.step.Implementation`.
        coefficient: Emits ``A_i^T(u)`` for the coefficient of the operand, if ``contributions`` are something else that
            is a multiple of it.
        stabilizer: A stabilizer in place of that of the rule.
        of_argument: Emits the relevance of an argument that is not an operand, such as a weight, given the step, ``u``
            and the name of the argument; returns None if it has none. None if it is not defined.
    """

    transposed: TransposedMap
    contributions: Callable[[Step], fx.Node] | None = None
    total: Callable[[Step], fx.Node] | None = None
    without_bias: Callable[[Step], fx.Node | None] | None = None
    are_factors: bool = False
    absorber: Absorber | None = None
    frozen: Frozen | None = None
    coefficient: TransposedMap | None = None
    stabilizer: float | None = None
    of_argument: Callable[[Step, fx.Node, str], Contribution] | None = None


def proportional(linear: LinearMap, receivers: Callable[[Choice], Receivers] = all_dependent) -> Implementation:
    """LRP-epsilon of a linear map; ``receivers`` chooses the operands that receive relevance.

    A parameter takes part like an operand. It does not share with the factors of a product, which are not weights.
    """

    def over_total(step: Step) -> fx.Node:
        return _over_total(step, linear)

    def contribution(step: Step, u: fx.Node, position: int) -> Relevance:
        if linear.coefficient is not None and step.facts.as_coefficients:
            return step.times(step.operands[position], linear.coefficient(step, u, position))
        summed = step.operands[position] if linear.contributions is None else linear.contributions(step)
        return step.times(summed, linear.transposed(step, u, position))

    def emit(step: Step) -> Contributions:
        u, count = step.once(over_total), _factors(step, linear)
        part = u if count == 1 else step.named("part", operator.truediv, u, count)
        return step.to_receivers(lambda position, _: contribution(step, part, position))

    def of_parameter(step: Step, argument: Argument) -> Contribution:
        u = step.once(over_total)
        if isinstance(argument, int):
            return contribution(step, u, argument)
        if linear.of_argument is None:
            raise no_relevance_of(step, argument)
        return linear.of_argument(step, u, argument)

    return Implementation(
        emit,
        receivers,
        of_parameter=of_parameter,
        quotients=True,
        vanishes=linear.contributions is None,
        absorber=linear.absorber,
        frozen=FACTORS if linear.are_factors else linear.frozen,
    )


def epsilons(
    linear: LinearMap, receivers: Callable[[Choice], Receivers] = all_dependent
) -> dict[type[Rule], Implementation]:
    """LRP-epsilon of a linear map with each kind of stabilizer."""
    return dict.fromkeys(EPSILONS, proportional(linear, receivers))


def epsilons_by_name(maps: Mapping[str, LinearMap]) -> dict[type[Rule], Mapping[str, Implementation]]:
    """:func:`epsilons` of several operations, by name."""
    of_each = {name: proportional(each) for name, each in maps.items()}
    return dict.fromkeys(EPSILONS, of_each)


def _over_total(step: Step, linear: LinearMap) -> fx.Node:
    """Emit ``R / s(z)``; for ``n`` factors ``n R / s(n z)``."""
    rule = step.rule
    epsilon = stabilizer_of(rule) if linear.stabilizer is None else linear.stabilizer
    total = linear.total(step) if linear.total is not None else None
    if linear.without_bias is not None and isinstance(rule, EPSILONS) and not rule.bias:
        total = linear.without_bias(step)
    if isinstance(rule, RelativeEpsilon | ClippedEpsilon):
        return over(step, _other_denominator(step, rule, total or step.node, _factors(step, linear)))
    # R / s(n z) with a stabilizer of epsilon is R / (n s(z)) with one of epsilon / n.
    count = _factors(step, linear)
    if total is None:
        return over_value(step, epsilon / count)
    return over(step, step.named("s", stabilize, total, epsilon / count))


def _other_denominator(step: Step, rule: RelativeEpsilon | ClippedEpsilon, z: fx.Node, count: int) -> fx.Node:
    """Emit ``s(n z) / n`` for a stabilizer that is not a constant; a relative one is the same for all ``n``."""
    if isinstance(rule, RelativeEpsilon):
        return step.named("s", stabilize_relative, z, rule.epsilon, rule.clip, rule.dims)
    return step.named("s", stabilize_clipped, z, rule.epsilon / count)


def _factors(step: Step, linear: LinearMap) -> int:
    """The number of operands that share the relevance equally."""
    return max(len(step.receivers), 1) if linear.are_factors else 1


def stabilizer_of(rule: Rule) -> float:
    """The stabilizer of LRP-epsilon under a rule; LRP-0 under a rule without one, such as a gradient."""
    if isinstance(rule, SignalTakeAll | Magnitude):
        return rule.stabilizer
    return rule.epsilon if isinstance(rule, Epsilon) else 0.0


def backpropagated(transposed: TransposedMap) -> Implementation:
    """What arrives through the transposed Jacobian: ``R_x = J^T R``."""

    def emit(step: Step) -> Contributions:
        return step.to_receivers(lambda position, _: transposed(step, step.relevance, position))

    return Implementation(emit)


def derivatives(transposed: Mapping[str, TransposedMap]) -> RuleTable:
    """The rules that are derivatives, of operations whose transposed Jacobian is written, by name."""
    gradients = {name: proportional(LinearMap(each, stabilizer=0.0)) for name, each in transposed.items()}
    return {
        Backpropagation: {name: backpropagated(each) for name, each in transposed.items()},
        # A derivative may be infinite where the operand is zero, as that of a quotient is, and the product NaN.
        Gradient: {name: replace(each, vanishes=False) for name, each in gradients.items()},
    }


def by_function(function: Callable[..., Tensor], *names: str) -> TransposedMap:
    """A transposed map that ``function`` computes from ``u``, the operand and the named arguments of the call."""

    def emit(step: Step, u: fx.Node, position: int) -> fx.Node:
        return step.call(function, u, step.operands[position], **options_of(step.operation, step.arguments, names))

    return emit


def options_of(operation: Operation, arguments: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The named arguments that differ from their defaults, and the dimensions of a pooling operation."""
    defaults = operation.parameters
    options = {name: arguments[name] for name in names if name in arguments and arguments[name] is not defaults[name]}
    return {**options, "dims": operation.dims} if operation.dims else options
