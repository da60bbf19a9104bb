"""Relevance of an embedding: of a token the sum over its features, of a row of the table the sum over its tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.relevance.allocation import allocates
from fxlrp.relevance.numerics import as_type_of
from fxlrp.relevance.step import (
    Argument,
    Contribution,
    Contributions,
    Implementation,
    RuleTable,
    Step,
    no_relevance_of,
)
from fxlrp.rules.specs import PassThrough


def embedding_relevance(r: Tensor) -> Tensor:
    """``R_token = sum_d R_d`` over the features of the token's vector."""
    return r.sum(-1)


@allocates
def table_relevance(r: Tensor, tokens: Tensor, table: Tensor) -> Tensor:
    """``R_row = sum R`` over the tokens that select the row."""
    rows = as_type_of(r.reshape(-1, r.shape[-1]), table)
    return torch.zeros_like(table).index_add(0, tokens.reshape(-1), rows)


def _emit_sum(step: Step) -> Contributions:
    return [step.call(embedding_relevance, step.relevance)]


def _of_parameter(step: Step, argument: Argument) -> Contribution:
    if argument == "weight":
        return step.call(table_relevance, step.relevance, step.arguments["input"], step.arguments["weight"])
    raise no_relevance_of(step, argument)


RULES: RuleTable = {PassThrough: Implementation(_emit_sum, of_parameter=_of_parameter)}
