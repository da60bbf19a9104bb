"""Let relevance steps read the positions that are explained from values of all positions, where these are returned.

Before, both are computed. If all positions are explained, as with a seed, that would be the same twice.
"""

from __future__ import annotations

from fxlrp.functions import at_positions
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program


@compiler_pass(needs=["relevance"], before=["release_values", "recompute_values", "checkpoint", "reuse_memory"])
def read_whole_positions(program: Program) -> int:
    """Let steps select positions of the values that are computed for the output; return how many values these are."""
    whole, positions = program.facts.whole, program.facts.positions
    for node, copied in whole.items():
        with program.graph.inserting_after(copied):
            selected = program.graph.call_function(at_positions, (copied, positions))
        node.replace_all_uses_with(selected, lambda user: user not in whole)
    return len(whole)
