"""From an annotated program to its two parts."""

from __future__ import annotations

from fxlrp.backward.split import Split, split
from fxlrp.debugging.logs import log_program
from fxlrp.optimizations import Optimizations
from fxlrp.passes import pipeline
from fxlrp.passes.base import run_passes
from fxlrp.program import Program


def lower(program: Program, optimizations: Optimizations) -> Split:
    """Emit the relevance of an annotated program as a backward, and split it from the forward."""
    run_passes(program, pipeline.enabled(pipeline.SPECIALIZE, optimizations))
    run_passes(program, pipeline.EMIT_BACKWARD)
    run_passes(program, pipeline.enabled(pipeline.OPTIMIZE_BACKWARD, optimizations))
    log_program(program.graph_module)
    return split(program)
