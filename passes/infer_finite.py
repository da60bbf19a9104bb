"""Find the values that are finite, not counting overflow.

A quotient ``C`` of ``R = x * C`` is not passed on to elements that an operation drops if they may be infinite: their
``C`` is zero, but the product would be NaN. Where a model writes infinity, such as at masked scores, products leave it
out.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx, nn

from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program
from fxlrp.relevance.numerics import is_finite


@compiler_pass(needs=["dependence"], after=["infer_signs"], before=["emit_relevance", "emit_backward"])
def infer_finite(program: Program) -> int:
    """Record the values that are known to be finite, and those that may not be; return how many are finite.

    An input may contain NaN or infinity, which a model may drop. After an operation that mixes elements they can no
    longer be dropped, so there the inputs count as finite.
    """
    known: set[fx.Node] = set()
    for_finite_inputs: set[fx.Node] = set()
    positive: set[fx.Node] = set()
    signs = program.facts.non_negative
    infinite: set[fx.Node] = set()
    for node in program.graph.nodes:
        operation = program.vocabulary.operation(node)
        spec = program.facts.values.get(node.name)
        if spec is not None and not spec.is_floating:
            known.add(node)  # integers and truth values
        elif node.op == "placeholder":
            for_finite_inputs.add(node)
        elif node.op == "get_attr" and _is_finite(operator.attrgetter(str(node.target))(program.graph_module)):
            known.add(node)
        elif operation is not None:
            arguments = operation.arguments(node)
            if operation.tells(operation.positive, arguments, positive, positive, signs):
                positive.add(node)
            if operation.tells(operation.finite, arguments, known, positive, signs):
                known.add(node)
            elif operation.tells(operation.finite, arguments, known | for_finite_inputs, positive, signs):
                (for_finite_inputs if operation.neutral else known).add(node)
            else:
                infinite.add(node)
    program.facts.finite, program.facts.infinite = frozenset(known), frozenset(infinite)
    return len(known)


def _is_finite(value: Any) -> bool:
    """Whether a parameter is finite; parameters are checked at compilation, but buffers may be infinite bounds."""
    if isinstance(value, nn.Parameter):
        return True
    return isinstance(value, Tensor) and is_finite(value)
