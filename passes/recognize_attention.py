"""Recognize attention, ``softmax(scale * Q K^T + mask) V``, however a model writes it.

Attention has one stabilizer, that of the product of weights and values. Masks and the product of queries and keys
follow LRP-0, so that all steps together are one vector-Jacobian product.
"""

from __future__ import annotations

import dataclasses

from torch import fx

from fxlrp.attention.pattern import attentions
from fxlrp.functions import mask_scores
from fxlrp.passes.base import compiler_pass
from fxlrp.program import ANNOTATION, Program, annotation
from fxlrp.rules.specs import Epsilon

_REASON = "attention: only the product with the values has a stabilizer"


@compiler_pass(needs=["annotated"], provides=["attention"], before=["emit_relevance", "emit_backward"])
def recognize_attention(program: Program) -> int:
    """Choose the steps of attention behind its weights; return how often there is attention.

    They follow LRP-0. A mask that a model adds is one: a sum would not know that its low numbers hide scores.
    """
    found = attentions(program)
    for each in found:
        for mask in each.masks:
            if mask.sum is not None:
                _add_as_mask(program, mask.sum, mask.value)
        for node in each.inner:
            before = annotation(node)
            if before is not None and isinstance(before.rule, Epsilon):
                node.meta[ANNOTATION] = dataclasses.replace(before, rule=Epsilon(0.0), reason=_REASON)
    return len(found)


def _add_as_mask(program: Program, node: fx.Node, mask: fx.Node) -> None:
    """Replace a sum of scores and a constant by the operation that masks scores."""
    operation, before = program.vocabulary.operation(node), annotation(node)
    assert operation is not None
    (scores,) = (operand for operand in operation.operands_of(node) if operand is not mask)
    node.target, node.args, node.kwargs = mask_scores, (scores, mask), {}
    if before is not None:
        node.meta[ANNOTATION] = dataclasses.replace(before, carries=(0,))
