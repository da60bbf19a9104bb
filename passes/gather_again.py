"""Gather parameters that lie on several devices again for the relevance steps, so that no device keeps all of them."""

from __future__ import annotations

from torch import fx

from fxlrp.layouts import whole
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program


@compiler_pass(needs=["relevance"], after=["read_redistributed"], before=["release_values", "checkpoint"])
def gather_again(program: Program) -> int:
    """Let relevance steps gather the parameters that the forward program gathers, too; return how many."""
    nodes = list(program.graph.nodes)
    steps = set(nodes[program.start :])
    gathered = [node for node in nodes[: program.start] if node.target is whole]
    return sum(_gather(program, node, steps) for node in gathered)


def _gather(program: Program, node: fx.Node, steps: set[fx.Node]) -> int:
    readers = [each for each in steps if node in each.all_input_nodes]
    if not readers or len(readers) == len(node.users):
        return 0
    first = next(each for each in program.graph.nodes if each in readers)
    with program.graph.inserting_before(first):
        again = program.graph.node_copy(node)
    for reader in readers:
        reader.replace_input_with(node, again)
    return 1
