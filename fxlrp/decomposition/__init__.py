"""The decompositions of composite operations into canonical ones.

A decomposition takes a builder and the arguments of the call by name. It returns the nodes that replace the call, or
None for a call that remains unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fxlrp.decomposition import (
    arithmetic,
    attention,
    bags,
    computed_arguments,
    computed_kernels,
    computed_weights,
    placement,
    reductions,
)
from fxlrp.decomposition.builder import Made

DECOMPOSITIONS: Mapping[str, Callable[..., Made | None]] = {
    **arithmetic.DECOMPOSITIONS,
    **reductions.DECOMPOSITIONS,
    **attention.DECOMPOSITIONS,
    **bags.DECOMPOSITIONS,
    **computed_weights.DECOMPOSITIONS,
    **computed_arguments.DECOMPOSITIONS,
    **computed_kernels.DECOMPOSITIONS,
    **placement.DECOMPOSITIONS,
}
