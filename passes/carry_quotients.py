"""Carry relevance as a quotient: ``C`` of ``R = x * C``.

Most rules pass on ``x * (...)``, and the next step divides by a value of the magnitude of ``x``. Together the product
and the division cancel to one bounded factor: LRP-epsilon then costs as much as a gradient, and half precision does
not overflow or divide by values that were rounded to zero.
"""

from __future__ import annotations

from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program, annotation
from fxlrp.relevance import implementation


@compiler_pass(needs=["annotated"], before=["emit_relevance", "emit_backward"])
def carry_quotients(program: Program) -> int:
    """Record the nodes whose steps may pass on quotients; return how many there are."""
    chosen = set()
    for node in program.graph.nodes:
        annotated, operation = annotation(node), program.vocabulary.operation(node)
        if annotated is None or operation is None or not annotated.carries:
            continue
        how = implementation(operation, annotated.rule)
        if how is not None and how.quotients:
            chosen.add(node)
    program.facts.quotients = frozenset(chosen)
    return len(chosen)
