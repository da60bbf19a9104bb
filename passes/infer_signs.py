"""Find the values that are never negative, for all inputs and parameters.

There a rule drops the terms that only negative inputs need: ZPlus computes one map instead of two.
"""

from __future__ import annotations

from torch import fx

from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program


@compiler_pass(needs=["dependence"], before=["emit_relevance", "emit_backward"])
def infer_signs(program: Program) -> int:
    """Record the non-negative values among those that depend on an input; return how many there are."""
    known: set[fx.Node] = set()
    for node in program.graph.nodes:
        operation = program.vocabulary.operation(node)
        if operation is None or node not in program.facts.dependent:
            continue
        if operation.tells(operation.non_negative, operation.arguments(node), known):
            known.add(node)
    program.facts.non_negative = frozenset(known)
    return len(known)
