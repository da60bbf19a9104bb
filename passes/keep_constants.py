"""Find values that are computed only from parameters, so that they are not recomputed at every call.

Examples are the weights of rules (``W+``, ``W + gamma W+``) and folded BatchNorm. An explainer keeps their values until
the parameters change. The program itself computes them, and so never uses old values.
"""

from __future__ import annotations

from torch import fx

from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program


@compiler_pass(
    needs=["relevance"], after=["share_across_batch", "keep_pool_indices", "checkpoint"], cuts_derivatives=True
)
def keep_constants(program: Program) -> int:
    """Record the constants that the rest of the program reads; return how many there are."""
    constant: set[fx.Node] = set()
    # Views of parameters, such as the chunks of a weight, cost nothing to make and would keep a copy to compare with.
    views: set[fx.Node] = set()
    for node in program.graph.nodes:
        sources = node.all_input_nodes
        if node.op == "get_attr" or (sources and views.issuperset(sources) and _is_view(program, node)):
            views.add(node)
        if node.op == "get_attr" or (
            node.op == "call_function" and sources and constant.issuperset(sources) and not node.is_impure()
        ):
            constant.add(node)
    program.emitted.kept = tuple(
        node
        for node in program.graph.nodes
        if node in constant and node not in views and not constant.issuperset(node.users)
    )
    return len(program.emitted.kept)


def _is_view(program: Program, node: fx.Node) -> bool:
    operation = program.vocabulary.operation(node)
    return operation is not None and operation.moves and not operation.allocates and not operation.is_cast
