"""Relevance of softmax."""

from __future__ import annotations

from torch import Tensor

from fxlrp.relevance.step import Contributions, Implementation, RuleTable, Step
from fxlrp.rules.specs import Taylor


def softmax_taylor(x: Tensor, out: Tensor, r: Tensor, *, dim: int) -> Tensor:
    """``R_x = x * (R - y * sum(R))`` along ``dim``; masked positions, at minus infinity, get none."""
    relevance = x * (r - out * r.sum(dim, keepdim=True))
    return relevance.masked_fill(x.isinf(), 0.0)


def _emit_taylor(step: Step) -> Contributions:
    (x,) = step.operands
    return [step.call(softmax_taylor, x, step.node, step.relevance, dim=step.arguments["dim"])]


RULES: RuleTable = {Taylor: Implementation(_emit_taylor)}
