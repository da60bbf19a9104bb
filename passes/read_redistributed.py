"""Let relevance steps read a value after its layout was changed, as the rest of the model does.

Before, it may be terms of a sum, one on each device, and every step that reads it would add them up again.
"""

from __future__ import annotations

from torch import fx

from fxlrp.layouts import from_local, redistribute
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program
from fxlrp.relevance.layouts import redistribute_relevance


@compiler_pass(needs=["relevance"], before=["release_values", "recompute_values", "checkpoint", "reuse_memory"])
def read_redistributed(program: Program) -> int:
    """Let steps read redistributed values in place of those before; return how many reads changed."""
    nodes = list(program.graph.nodes)
    steps = set(nodes[program.start :])
    return sum(_read_after(node, steps) for node in nodes[: program.start] if node.target is redistribute)


def _read_after(changed: fx.Node, steps: set[fx.Node]) -> int:
    value = changed.args[0]
    if not isinstance(value, fx.Node) or value.target in (from_local, redistribute):
        return 0
    # The layout of the relevance follows from that of the value before.
    readers = [user for user in value.users if user in steps and user.target is not redistribute_relevance]
    for reader in readers:
        reader.replace_input_with(value, changed)
    return len(readers)
