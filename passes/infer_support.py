"""Find the values whose relevance is zero wherever they are zero or negative.

An operation that reads ``relu(z)`` passes it relevance ``relu(z) * (...)``, which is zero where ``z`` is not positive.
There a rule drops the half for negative outputs.
"""

from __future__ import annotations

from torch import fx

from fxlrp.passes.base import compiler_pass
from fxlrp.places import Places
from fxlrp.program import Program, annotation, operation_under
from fxlrp.relevance import implementation


@compiler_pass(needs=["annotated"], after=["infer_signs"], before=["emit_relevance", "emit_backward"])
def infer_support(program: Program) -> int:
    """Record the values whose relevance vanishes where they are not positive; return how many there are."""
    outside = {*program.outputs, *_restricted(program)}
    inside: set[fx.Node] = set()
    for node in reversed(program.graph.nodes):
        annotated, operation = annotation(node), program.vocabulary.operation(node)
        if annotated is None or operation is None:
            continue
        if node not in outside:
            inside.add(node)
        how = implementation(operation, annotated.rule)
        operands = operation_under(operation, annotated.rule).operands_of(node)
        keeps_support = operation.tells(operation.keeps_support, operation.arguments(node))
        for position in annotated.carries:
            operand = operands[position]
            # The contribution is zero wherever the operand is, or follows elements that are positive only if it is.
            vanishes = how is not None and how.vanishes and operand in program.facts.non_negative
            follows = how is not None and how.follows and keeps_support and node in inside
            if not (vanishes or follows):
                outside.add(operand)
    program.facts.supported = frozenset(inside)
    return len(inside)


def _restricted(program: Program) -> set[fx.Node]:
    """The values under a condition: a function as a condition may return relevance anywhere."""
    names = program.options.question.only
    if not names:
        return set()
    places = Places(program)
    return {value for name in names for value in places.meant(name)}
