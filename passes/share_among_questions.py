"""With several questions: compute first what no question changes, such as denominators, once for all of them."""

from __future__ import annotations

from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program


@compiler_pass(needs=["relevance"], before=["release_values", "recompute_values", "keep_constants", "reuse_memory"])
def share_among_questions(program: Program) -> int:
    """Put the relevance steps that depend on no target, seed or condition first; return how many there are."""
    if not program.options.question.stacked:
        return 0
    nodes = list(program.graph.nodes)
    own = program.own_to_questions
    shared = [node for node in nodes[program.start :] if node not in own and node.op != "output"]
    place = nodes[program.start]
    for node in shared:
        place.append(node)
        place = node
    return sum(node.op == "call_function" for node in shared)
