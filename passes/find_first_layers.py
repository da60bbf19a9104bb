"""Find the first layers: every linear map that reads a model input through relevance-neutral operations only."""

from __future__ import annotations

from torch import fx

from fxlrp.operation import Family
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program


@compiler_pass(needs=["decomposed", "dependence"], provides=["first layers"])
def find_first_layers(program: Program) -> int:
    """Follow the inputs through neutral operations to the first linear maps; return how many there are.

    Shape operations, activations, and sums and products with constants are neutral: they preprocess an input.
    """
    near: set[fx.Node] = set()
    first: set[fx.Node] = set()
    dependent = program.facts.dependent
    for node in program.graph.nodes:
        operation = program.vocabulary.operation(node)
        if node.op == "placeholder":
            near.add(node)
        elif operation is not None and node in dependent:
            sources = [source for source in operation.operands_of(node) if source in dependent]
            if not sources or any(source not in near for source in sources):
                continue
            if operation.family is Family.LINEAR:
                first.add(node)
            elif operation.neutral and (operation.moves or len(sources) == 1):
                near.add(node)
    program.facts.first_layer = frozenset(first)
    return len(first)
