"""Find the values whose relevance is zero wherever they are zero or negative.

What reads ``relu(z)`` hands it relevance ``relu(z) * (...)``, which is zero where ``z`` is not positive. A rule drops
the half there that serves negative outputs.
"""

from __future__ import annotations

from torch import fx

from fxlrp.operation import Family, Operation
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Annotation, Program, annotation
from fxlrp.rules.specs import AlphaBeta, Epsilon, Gamma, Magnitude, PassThrough, WinnerTakesAll, ZPlus


@compiler_pass(needs=["annotated"], provides=["support"])
def infer_support(program: Program) -> int:
    """Record the values whose relevance vanishes where they are not positive; return how many there are."""
    outside = set(program.outputs)
    inside: set[fx.Node] = set()
    for node in reversed(program.graph.nodes):
        annotated, operation = annotation(node), program.vocabulary.operation(node)
        if annotated is None or operation is None:
            continue
        if node not in outside:
            inside.add(node)
        operands = operation.operands_of(node)
        for position in annotated.carries:
            if not _supported(program, operation, annotated, node in inside, operands[position]):
                outside.add(operands[position])
    program.supported = frozenset(inside)
    return len(inside)


def _supported(program: Program, operation: Operation, annotated: Annotation, inside: bool, operand: fx.Node) -> bool:
    """Whether what a step hands to an operand is zero wherever the operand is not positive."""
    if isinstance(annotated.rule, _PRODUCTS):
        # It is a multiple of the operand.
        return operand in program.non_negative
    if isinstance(annotated.rule, PassThrough | WinnerTakesAll):
        moves = operation.family in (Family.SHAPE, Family.MAX_POOL, Family.CHECK)
        return inside and (moves or operation.name in _SAME_SIGN)
    return False


_PRODUCTS = (Epsilon, ZPlus, AlphaBeta, Gamma, Magnitude)

# The result is positive only where the operand is.
_SAME_SIGN = frozenset(
    (
        *("relu", "relu6", "selu", "silu", "gelu", "mish", "hardswish"),
        *("tanh", "softsign", "tanhshrink", "softshrink", "hardshrink"),
    )
)
