"""Compute once what a first layer's rule would compute for every sample, or for every channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program
from fxlrp.relevance.first_layer import flat_of_one_channel, wsquare_of_one_sample, zbox_of_one_sample
from fxlrp.relevance.linear import linear_flat, linear_wsquare, linear_zbox

_ONCE: Mapping[object, Callable[..., Tensor]] = {
    linear_flat: flat_of_one_channel,
    linear_wsquare: wsquare_of_one_sample,
    linear_zbox: zbox_of_one_sample,
}


@compiler_pass(needs=["relevance"])
def share_across_batch(program: Program) -> int:
    """Replace the steps of Flat, WSquare and ZBox; return how many."""
    count = 0
    for node in program.graph.nodes:
        # Only the relevance of the input: that of a parameter is summed over the batch.
        if node.op == "call_function" and node.target in _ONCE and "of" not in node.kwargs:
            node.target = _ONCE[node.target]
            count += 1
    return count
