"""Relevance of products and quotients: scaling by constants, gates, squeeze-and-excitation.

A factor takes a fixed share: all for the signal (Arras et al., 2019), half each for equals (Achtibat et al., 2024).
"""

from __future__ import annotations

from typing import Any

from torch import fx

from fxlrp.operation import Family
from fxlrp.relevance.numerics import part
from fxlrp.relevance.step import Choice, Contributions, Implementation, Receivers, RuleTable, Step
from fxlrp.rules.specs import SignalTakeAll, Uniform

# How much an activation makes of its result a gate: a bounded one more than a self-gated one.
_GATING = {
    **dict.fromkeys(("sigmoid", "hardsigmoid", "softmax"), 2),
    **dict.fromkeys(("tanh", "hardtanh", "silu", "hardswish", "gelu", "softplus"), 1),
}
_TRANSPARENT = (Family.SHAPE, Family.SUM, Family.PRODUCT)


def _gate_rank(value: Any, choice: Choice) -> int:
    """How much of a gate a factor is, seen through shape operations and arithmetic with constants."""
    while isinstance(value, fx.Node):
        operation = choice.vocabulary.operation(value)
        if operation is None:
            return 0
        if operation.name in _GATING:
            return _GATING[operation.name]
        sources = [operand for operand in operation.operands_of(value) if operand in choice.program_dependent]
        if operation.family not in _TRANSPARENT or len(sources) != 1:
            return 0
        value = sources[0]
    return 0


def _signal(choice: Choice) -> Receivers:
    if len(choice.operands) == 1:
        return Receivers(choice.dependent, "the denominator is a weight")
    if len(choice.dependent) < 2:
        return Receivers(choice.dependent, "the other factor does not depend on the input")
    ranks = [_gate_rank(operand, choice) for operand in choice.operands]
    if ranks[0] == ranks[1]:
        return Receivers(choice.dependent, "neither factor is more of a gate: half each")
    gate = ranks.index(max(ranks))
    return Receivers((1 - gate,), f"operand {gate} is the gate")


def _emit_product(step: Step) -> Contributions:
    share = 1 / len(step.receivers)
    return step.to_receivers(lambda operand: step.call(part, operand, step.relevance, share=share))


RULES: RuleTable = {
    SignalTakeAll: Implementation(_emit_product, _signal),
    Uniform: Implementation(_emit_product),
}
