"""Let max pooling remember the indices of the largest elements, so that relevance steps need not pool again."""

from __future__ import annotations

import operator

from torch import fx

from fxlrp.operation import Family
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program
from fxlrp.provenance import provenance
from fxlrp.relevance.max_pool import WINDOW, max_pool_winner, max_pool_with_winners, to_winners
from fxlrp.relevance.proportional import options_of


@compiler_pass(needs=["relevance"])
def keep_pool_indices(program: Program) -> int:
    """Share one pooling between the forward program and its relevance step; return how many."""
    count = 0
    for pooled in list(program.graph.nodes):
        step = _relevance_step(program, pooled)
        if step is not None:
            _share(program.graph, pooled, step)
            count += 1
    return count


def _relevance_step(program: Program, pooled: fx.Node) -> fx.Node | None:
    """The step that pools like this node to find the indices."""
    operation = program.vocabulary.operation(pooled)
    if operation is None or operation.family is not Family.MAX_POOL:
        return None
    arguments = operation.arguments(pooled)
    options = options_of(operation, arguments, WINDOW)
    user: fx.Node
    for user in arguments["input"].users:
        if user.target is max_pool_winner and user.args[0] is arguments["input"] and user.kwargs == options:
            return user
    return None


def _share(graph: fx.Graph, pooled: fx.Node, step: fx.Node) -> None:
    x, r = step.args
    with graph.inserting_before(pooled):
        both = graph.call_function(max_pool_with_winners, (x,), dict(step.kwargs))
    pooled.target, pooled.args, pooled.kwargs = operator.getitem, (both, 0), {}
    with graph.inserting_after(pooled):
        winners = graph.call_function(operator.getitem, (both, 1))
    step.target, step.args = to_winners, (x, r, winners)
    for node, name in ((both, "and_winners"), (winners, "winners")):
        node.meta = provenance(pooled)
        node._rename(f"{pooled.name}_{name}")
