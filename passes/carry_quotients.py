"""Let relevance travel as a quotient: ``C`` of ``R = x * C``.

Most rules hand on ``x * (...)``, and the step before divides by a value of the size of ``x``. Left apart, the product
and the quotient cancel into one bounded factor: LRP-epsilon then costs what a gradient costs, and half precision
neither overflows nor divides by what it has rounded to zero.
"""

from __future__ import annotations

from fxlrp.operation import Family
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program, annotation
from fxlrp.rules.specs import (
    AlphaBeta,
    Epsilon,
    Gamma,
    PassThrough,
    SignalTakeAll,
    Taylor,
    Uniform,
    WinnerTakesAll,
    ZPlus,
)


@compiler_pass(needs=["annotated"], provides=["quotients"])
def carry_quotients(program: Program) -> int:
    """Record the nodes whose steps may hand on quotients; return how many there are."""
    chosen = set()
    for node in program.graph.nodes:
        annotated, operation = annotation(node), program.vocabulary.operation(node)
        if annotated is None or operation is None or not annotated.carries:
            continue
        if isinstance(annotated.rule, _RULES) and operation.family in _FAMILIES:
            chosen.add(node)
    program.quotients = frozenset(chosen)
    return len(chosen)


_RULES = (Epsilon, ZPlus, AlphaBeta, Gamma, PassThrough, WinnerTakesAll, SignalTakeAll, Uniform, Taylor)
_FAMILIES = frozenset(
    (
        *(Family.MATMUL, Family.SOFTMAX, Family.MASK, Family.PRODUCT),
        *(Family.LINEAR, Family.SUM, Family.AVERAGE, Family.NORMALIZATION),
        *(Family.MAX_POOL, Family.SHAPE, Family.ACTIVATION, Family.CHECK),
    )
)
