"""Remove nodes whose value is not read. This is safe only if the graph is functional."""

from __future__ import annotations

from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program


@compiler_pass(needs=["functional"])
def remove_dead_code(program: Program) -> int:
    """Erase unused nodes except inputs, last first, so that one walk erases chains; return how many were erased."""
    count, differing = 0, program.differing
    for node in reversed(list(program.graph.nodes)):
        if node.op not in ("placeholder", "output") and not node.users and node.name not in differing:
            program.graph.erase_node(node)
            count += 1
    return count
