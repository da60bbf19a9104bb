"""The order of the passes: one explicit list for each stage of ``fxlrp.compile``."""

from __future__ import annotations

from fxlrp.passes.annotate import annotate
from fxlrp.passes.base import Pass
from fxlrp.passes.decompose import decompose
from fxlrp.passes.emit_relevance import emit_relevance
from fxlrp.passes.find_first_layers import find_first_layers
from fxlrp.passes.fold_batch_norm import fold_batch_norm
from fxlrp.passes.functionalize import functionalize
from fxlrp.passes.infer_dependence import infer_dependence
from fxlrp.passes.name_nodes import name_nodes
from fxlrp.passes.normalize import normalize
from fxlrp.passes.remove_dead_code import remove_dead_code
from fxlrp.passes.remove_identities import remove_identities

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
EMIT: tuple[Pass, ...] = (emit_relevance, remove_dead_code)
