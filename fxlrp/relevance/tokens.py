"""Relevance of tokens that an operation maps one to one: each keeps its relevance, in the type of the model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fxlrp.errors import InternalError
from fxlrp.relevance.step import Choice, Contributions, Implementation, Receivers, Step
from fxlrp.rules.rule import Rule


@dataclass(frozen=True)
class MapTokens(Rule):
    """Tokens keep their relevance: ``R_token = R``. The compiler chooses this rule; it cannot be selected."""


def mapped_relevance(tokens: Tensor, r: Tensor) -> Tensor:
    """Back to the shape and device of tokens; those that were repeated get the sum."""
    return (r if r.shape == tokens.shape else r.sum_to_size(tokens.shape)).to(tokens.device)


def _only_tokens(choice: Choice) -> Receivers:
    if len(choice.dependent) != 1:
        raise InternalError(f"{choice.node.name!r} maps {len(choice.dependent)} operands with tokens")
    return Receivers(choice.dependent)


def _emit_mapped(step: Step) -> Contributions:
    return step.to_receivers(lambda _, operand: step.call(mapped_relevance, operand, step.relevance))


MAPPED = Implementation(_emit_mapped, _only_tokens)
