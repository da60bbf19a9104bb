"""Relevance of products and quotients: scaling by constants, gates, squeeze-and-excitation.

A factor receives a fixed share: all for the signal (Arras et al., 2019), or half each (Achtibat et al., 2024), apart
from weights that the signal selects (Jafari et al., 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from fxlrp.operation import Family, Gate
from fxlrp.relevance.allocation import allocates, with_in_place_form
from fxlrp.relevance.form import Form, reads_form
from fxlrp.relevance.held import FACTORS
from fxlrp.relevance.numerics import part, unbroadcast
from fxlrp.relevance.proportional import derivatives
from fxlrp.relevance.step import (
    Argument,
    Choice,
    Contribution,
    Contributions,
    Implementation,
    Receivers,
    RuleTable,
    Step,
)
from fxlrp.rules.specs import Selective, SignalTakeAll, Uniform

_TRANSPARENT = (Family.SHAPE, Family.SUM, Family.PRODUCT)


def gate_rank(value: Any, choice: Choice) -> Gate:
    """The gate level of a factor, ignoring shape operations and arithmetic with constants."""
    waiting, seen, ranks = [value], {value}, []
    while waiting:
        rank, sources = _own_rank(waiting.pop(), choice)
        if not sources:
            ranks.append(rank)
        waiting.extend(source for source in sources if source not in seen)
        seen.update(sources)
    return min(ranks)


def _own_rank(value: Any, choice: Choice) -> tuple[Gate, list[fx.Node]]:
    """The gate level of a value, or the values from which it takes the level."""
    operation = choice.vocabulary.operation(value) if isinstance(value, fx.Node) else None
    if operation is None:
        return Gate.NO, []
    gate = operation.gate_of(value, choice.program_dependent)
    sources = [operand for operand in operation.operands_of(value) if operand in choice.program_dependent]
    if gate is not Gate.NO or operation.family not in _TRANSPARENT:
        return gate, []
    return Gate.NO, sources if len(sources) <= 1 or operation.moves else []


def _signal(choice: Choice) -> Receivers:
    if len(choice.operands) == 1:
        return Receivers(choice.dependent, "the denominator is a weight")
    if len(choice.dependent) < 2:
        return Receivers(choice.dependent, "the other factor does not depend on the input")
    ranks = [gate_rank(operand, choice) for operand in choice.operands]
    if ranks[0] == ranks[1]:
        return Receivers(choice.dependent, "neither factor is the gate: half each")
    gate = ranks.index(max(ranks))
    return Receivers((1 - gate,), f"operand {gate} is the gate")


def _equals(choice: Choice) -> Receivers:
    """Every factor except a statistic."""
    statistics = [gate_rank(operand, choice) is Gate.STATISTIC for operand in choice.operands]
    if len(choice.dependent) == 2 and len(choice.operands) == 2 and statistics[0] != statistics[1]:
        return Receivers((statistics.index(False),), f"operand {statistics.index(True)} is a statistic")
    return Receivers(choice.dependent)


def signals(choice: Choice) -> Receivers | None:
    """The factors that are no weights under :class:`~fxlrp.rules.Selective`; None if it is not known which are."""
    assert isinstance(choice.rule, Selective)
    named = choice.rule.signal
    if named is not None and named in choice.dependent:
        return Receivers((named,), f"operand {named} is the signal")
    if choice.weights:
        positions = tuple(each for each in choice.dependent if each not in choice.weights)
        return Receivers(positions, f"operand {choice.weights[0]} is a weight that the signal selects")
    return None


def _selective(choice: Choice) -> Receivers:
    return signals(choice) or _equals(choice)


def _emit_product(step: Step) -> Contributions:
    share = 1 / len(step.receivers)
    return step.to_receivers(lambda _, operand: step.call(part, operand, step.relevance, share=share))


def _of_parameter(step: Step, argument: Argument) -> Contribution:
    """All relevance of the product, as the weight of a linear map receives; of a divisor, too."""
    parameter = step.operands[argument] if isinstance(argument, int) else step.arguments[argument]
    return step.call(part, parameter, step.relevance, share=1.0)


def product_factor_(
    factor: Tensor, other: Tensor | float, operand: Tensor | Form, *, share: float, divided: bool
) -> Tensor:
    """:func:`product_factor`, in the memory of ``C`` if it has the type of the result."""
    if isinstance(other, Tensor) and other.dtype != factor.dtype:
        return product_factor(factor, other, operand, share=share, divided=divided)
    factor = factor.div_(other) if divided else factor.mul_(other)
    return unbroadcast(factor if share == 1 else factor.mul_(share), operand)


@allocates
@with_in_place_form(product_factor_)
@reads_form("operand")
def product_factor(
    factor: Tensor, other: Tensor | float, operand: Tensor | Form, *, share: float, divided: bool
) -> Tensor:
    """``C`` of a factor ``x``, for relevance ``R = y * C`` of ``y = x * g``: ``share * C * g``."""
    factor = factor / other if divided else factor * other
    return unbroadcast(factor if share == 1 else factor.mul_(share), operand)


def _specialize_product(step: Step) -> Contributions | None:
    """Convert a quotient by the product to quotients by its factors."""
    if not step.facts.quotients or step.single.base is not step.node:
        return None
    arguments = step.arguments
    a, b = arguments["input"], arguments["other"]
    options = {"share": 1 / len(step.receivers), "divided": "other" in step.operation.held_constant}
    return [
        step.times(own, step.call(product_factor, step.single.factor, other, own, **options))
        if position in step.receivers
        else None
        for position, (own, other) in enumerate(((a, b), (b, a))[: len(step.operands)])
    ]


def quotient_transposed(u: Tensor, out: Tensor, divisor: Tensor) -> Tensor:
    """``J^T u`` of the divisor of a quotient."""
    return unbroadcast(-u * out / divisor, divisor)


def _product_transposed(step: Step, u: fx.Node, position: int) -> fx.Node:
    own, other = step.operands[position], step.operands[1 - position]
    return step.call(product_factor, u, other, own, share=1, divided=False)


def _quotient_transposed(step: Step, u: fx.Node, position: int) -> fx.Node:
    dividend, divisor = step.arguments["input"], step.arguments["other"]
    if position:
        return step.call(quotient_transposed, u, step.node, divisor)
    return step.call(product_factor, u, divisor, dividend, share=1, divided=True)


def _rule(receivers: Callable[[Choice], Receivers]) -> Implementation:
    return Implementation(
        _emit_product,
        receivers,
        specialize=_specialize_product,
        of_parameter=_of_parameter,
        quotients=True,
        frozen=FACTORS,
    )


RULES: RuleTable = {
    **derivatives({"mul": _product_transposed, "div": _quotient_transposed}),
    SignalTakeAll: _rule(_signal),
    Uniform: _rule(_equals),
    Selective: _rule(_selective),
}
