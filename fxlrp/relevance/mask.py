"""Relevance of masked attention scores."""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.attention.call import hides_by_rounding
from fxlrp.relevance.numerics import stabilize, unbroadcast
from fxlrp.relevance.step import Contributions, Implementation, RuleTable, Step
from fxlrp.rules.specs import Epsilon


def mask_scores_epsilon(operand: Tensor, mask: Tensor, out: Tensor, r: Tensor, *, epsilon: float) -> Tensor:
    """To the scores that a boolean mask keeps; a numeric mask takes its share as in a sum."""
    if mask.dtype == torch.bool:
        return unbroadcast(r.masked_fill(~mask, 0.0), operand)
    hides = _hides(mask, out)
    # Derivatives of hidden scores, which are infinite, are not computed either.
    shares = r / stabilize(out.masked_fill(hides, 1.0), epsilon)
    return unbroadcast((operand * shares).masked_fill(hides, 0.0), operand)


def _hides(mask: Tensor, out: Tensor) -> Tensor:
    """Where a numeric mask hides scores: by minus infinity, or by numbers that round them off.

    Hidden scores have no relevance. The relevance of what hides them may overflow, and 0 * inf would be NaN.
    """
    return out.isinf() | hides_by_rounding(mask if mask.is_floating_point() else mask.to(out.dtype))


def _emit_epsilon(step: Step) -> Contributions:
    assert isinstance(step.rule, Epsilon)
    mask, epsilon = step.arguments["mask"], step.rule.epsilon
    return step.to_receivers(
        lambda _, operand: step.call(mask_scores_epsilon, operand, mask, step.node, step.relevance, epsilon=epsilon)
    )


def mask_scores_factor(factor: Tensor, mask: Tensor, out: Tensor, *, epsilon: float) -> Tensor:
    """``C`` of the scores, for relevance ``R = out * C``."""
    if mask.dtype == torch.bool:
        return factor.masked_fill(~mask, 0.0)
    hides = _hides(mask, out)
    kept = out.masked_fill(hides, 1.0)
    return (factor * (kept / stabilize(kept, epsilon))).masked_fill(hides, 0.0)


def _specialize_epsilon(step: Step) -> Contributions | None:
    assert isinstance(step.rule, Epsilon)
    if not step.facts.quotients or step.single.base is not step.node or not step.may_drop or 1 in step.receivers:
        return None
    scores, mask = step.operands
    options = {"epsilon": step.rule.epsilon}
    factor = step.call(mask_scores_factor, step.single.factor, mask, step.node, **options)
    return [step.times(scores, step.call(unbroadcast, factor, scores)), None]


RULES: RuleTable = {Epsilon: Implementation(_emit_epsilon, specialize=_specialize_epsilon, quotients=True)}
