"""The order of the passes: one explicit list for each stage of ``fxlrp.compile``."""

from __future__ import annotations

from fxlrp.optimizations import Optimizations
from fxlrp.passes.annotate import annotate
from fxlrp.passes.base import Pass
from fxlrp.passes.carry_quotients import carry_quotients
from fxlrp.passes.checkpoint import checkpoint
from fxlrp.passes.decompose import decompose
from fxlrp.passes.emit_backward import emit_backward
from fxlrp.passes.emit_relevance import emit_relevance
from fxlrp.passes.find_first_layers import find_first_layers
from fxlrp.passes.fold_batch_norm import fold_batch_norm
from fxlrp.passes.functionalize import functionalize
from fxlrp.passes.infer_dependence import infer_dependence
from fxlrp.passes.infer_signs import infer_signs
from fxlrp.passes.infer_support import infer_support
from fxlrp.passes.keep_constants import keep_constants
from fxlrp.passes.keep_pool_indices import keep_pool_indices
from fxlrp.passes.name_nodes import name_nodes
from fxlrp.passes.normalize import normalize
from fxlrp.passes.remove_dead_code import remove_dead_code
from fxlrp.passes.remove_identities import remove_identities
from fxlrp.passes.reuse_memory import reuse_memory
from fxlrp.passes.share_across_batch import share_across_batch

CANONICALIZE: tuple[Pass, ...] = (
    functionalize,
    normalize,
    decompose,
    remove_identities,
    remove_dead_code,
    name_nodes,
)
SIMPLIFY: tuple[Pass, ...] = (fold_batch_norm, remove_dead_code)
ANALYZE: tuple[Pass, ...] = (infer_dependence, find_first_layers)
ANNOTATE: tuple[Pass, ...] = (annotate,)
SPECIALIZE: tuple[Pass, ...] = (infer_signs, infer_support, carry_quotients)
EMIT: tuple[Pass, ...] = (emit_relevance, remove_dead_code)
EMIT_BACKWARD: tuple[Pass, ...] = (emit_backward, remove_dead_code)
CHECKPOINT: tuple[Pass, ...] = (checkpoint,)
OPTIMIZE: tuple[Pass, ...] = (share_across_batch, keep_pool_indices, keep_constants, reuse_memory)
# Forward and relevance are two programs here: none may write into what the other reads, or keeps.
OPTIMIZE_BACKWARD: tuple[Pass, ...] = (share_across_batch, keep_pool_indices)


def enabled(passes: tuple[Pass, ...], optimizations: Optimizations) -> tuple[Pass, ...]:
    """The passes without the optimizations that are switched off."""
    return tuple(each for each in passes if getattr(optimizations, each.name, True))
