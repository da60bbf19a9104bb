"""Keep few activations, and recompute the others when relevance reaches them.

The forward program is cut into segments. Values that later segments read are kept. All other values of a segment are
recomputed immediately before its relevance. If the number of segments is the square root of the number of operations,
memory grows with the square root of the depth, at the cost of one more forward pass (Chen et al., 2016).
"""

from __future__ import annotations

import math

from torch import fx

from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program


@compiler_pass(needs=["relevance"])
def checkpoint(program: Program) -> int:
    """Recompute the inside of all ``segments`` segments except the last; return how many operations."""
    order = {node: index for index, node in enumerate(program.graph.nodes)}
    start = program.start
    forward = [
        node
        for node, index in order.items()
        if index < start and node.op == "call_function" and node in program.facts.dependent
    ]
    count = program.options.segments or round(math.sqrt(len(forward)))
    size = math.ceil(len(forward) / max(1, count))
    copies: list[fx.Node] = []
    for first in range(0, len(forward) - size, max(1, size)):
        copies += _recompute(program.graph, forward[first : first + size], order, start)
    program.emitted.recomputed |= frozenset(copies)
    return len(copies)


def _recompute(graph: fx.Graph, segment: list[fx.Node], order: dict[fx.Node, int], start: int) -> list[fx.Node]:
    """Let relevance steps read copies of values that only they and this segment read; return the copies."""
    members = set(segment)
    inside = {
        node for node in segment if all(user in members or order.get(user, start) >= start for user in node.users)
    }
    readers = {node: [user for user in node.users if user not in members] for node in inside}
    readers = {node: users for node, users in readers.items() if users}
    if not readers:
        return []
    needed = set(readers)
    for node in reversed(segment):
        if node in needed:
            needed.update(source for source in node.all_input_nodes if source in inside)
    copies: dict[fx.Node, fx.Node] = {}
    first = min((user for users in readers.values() for user in users), key=order.__getitem__)
    with graph.inserting_before(first):
        for node in segment:
            if node in needed:
                copies[node] = graph.node_copy(node, lambda source: copies.get(source, source))
                copies[node]._rename(f"{node.name}_again")
    for node, users in readers.items():
        for user in users:
            user.replace_input_with(node, copies[node])
    return list(copies.values())
