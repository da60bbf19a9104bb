"""Relevance of an embedding: the relevance of a token is the sum over its features."""

from __future__ import annotations

from torch import Tensor

from fxlrp.relevance.step import Contributions, Implementation, RuleTable, Step
from fxlrp.rules.specs import PassThrough


def embedding_relevance(r: Tensor) -> Tensor:
    """``R_token = sum_d R_d`` over the features of the token's vector."""
    return r.sum(-1)


def _emit_sum(step: Step) -> Contributions:
    return [step.call(embedding_relevance, step.relevance)]


RULES: RuleTable = {PassThrough: Implementation(_emit_sum)}
