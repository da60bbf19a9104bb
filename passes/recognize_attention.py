"""Recognize attention, ``softmax(scale * Q K^T + mask) V``, however a model writes it.

Attention has one stabilizer, that of the product of weights and values. Masks and the product of queries and keys
follow LRP-0, so that all steps together are one vector-Jacobian product.
"""

from __future__ import annotations

import dataclasses

from fxlrp.attention.pattern import attentions
from fxlrp.passes.base import compiler_pass
from fxlrp.program import ANNOTATION, Program, annotation
from fxlrp.rules.specs import Epsilon

_REASON = "attention: only the product with the values has a stabilizer"


@compiler_pass(needs=["annotated"], provides=["attention"], before=["emit_relevance", "emit_backward"])
def recognize_attention(program: Program) -> int:
    """Choose LRP-0 for the steps of attention behind its weights; return how often there is attention."""
    found = attentions(program)
    for node in (node for each in found for node in each.inner):
        before = annotation(node)
        if before is not None and isinstance(before.rule, Epsilon):
            node.meta[ANNOTATION] = dataclasses.replace(before, rule=Epsilon(0.0), reason=_REASON)
    return len(found)
