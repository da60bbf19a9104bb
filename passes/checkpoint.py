"""Keep few activations, and compute the others again when relevance reaches them.

The forward program is cut into segments. What later segments read is kept; everything else in a segment is computed a
second time, right before the relevance of the segment. With as many segments as the square root of the number of
operations, memory grows with the square root of the depth, for the price of one more forward pass (Chen et al., 2016).
"""

from __future__ import annotations

import math

from torch import fx

from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program


@compiler_pass(needs=["relevance"])
def checkpoint(program: Program) -> int:
    """Recompute the inside of each of ``segments`` segments but the last; return how many operations."""
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
    program.emitted.recomputed = frozenset(copies)
    return len(copies)


def _recompute(graph: fx.Graph, segment: list[fx.Node], order: dict[fx.Node, int], start: int) -> list[fx.Node]:
    """Let relevance steps read copies of what only this segment and they read; return the copies."""
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
