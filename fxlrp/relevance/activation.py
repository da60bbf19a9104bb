"""Relevance of elementwise activations: it passes unchanged (Bach et al., 2015)."""

from __future__ import annotations

from fxlrp.relevance.step import Contributions, Implementation, RuleTable, Step
from fxlrp.rules.specs import PassThrough


def _emit_pass(step: Step) -> Contributions:
    # A quotient also passes unchanged: its base remains the result of the activation.
    return step.to_receivers(lambda *_: step.single)


RULES: RuleTable = {PassThrough: Implementation(_emit_pass, quotients=True, follows=True)}
