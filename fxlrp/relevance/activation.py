"""Relevance of elementwise activations: it passes unchanged (Bach et al., 2015)."""

from __future__ import annotations

import operator

from fxlrp.operation import Family
from fxlrp.relevance.step import Contributions, Implementation, RuleTable, Step, like_receiver
from fxlrp.rules.specs import PassThrough


def _emit_pass(step: Step) -> Contributions:
    # A quotient also passes unchanged: its base remains the result of the activation.
    return step.to_receivers(lambda *_: step.single)


def _specialize_pass(step: Step) -> Contributions | None:
    """Convert a quotient by ``-x`` or a checked ``x`` to one by ``x``, so that it remains one behind views of ``x``."""
    (x, *_), received = step.operands, step.single
    if received.base is not step.node or not step.facts.quotients:
        return None
    if step.operation.family is Family.CHECK:
        return [step.times(x, received.factor)]
    if step.operation.function is operator.neg:
        return [step.times(x, step.call(operator.neg, received.factor))]
    return None


RULES: RuleTable = {
    PassThrough: Implementation(
        _emit_pass, specialize=_specialize_pass, of_parameter=like_receiver(_emit_pass), quotients=True, follows=True
    )
}
