"""Infer the shapes and types of values from example inputs, without computing any of them."""

from __future__ import annotations

from fxlrp.errors import GraphError
from fxlrp.layouts import takes_local_parts
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program
from fxlrp.shapes import infer_values as values_of


@compiler_pass(needs=["canonical"], after=["name_nodes"])
def infer_values(program: Program) -> int:
    """Record the shapes and types of all tensors, and the values of sizes, by name; return how many tensors are known.

    Raises:
        GraphError: The graph does not run on the example inputs.
    """
    # A part on one device is smaller than the whole, by a factor that no graph contains.
    if program.options.examples and not takes_local_parts(program.graph):
        try:
            inferred = values_of(program.graph_module, program.graph, program.options.examples)
        except Exception as error:
            raise GraphError(f"the model does not take the example inputs: {error}") from error
        program.facts.values, program.facts.sizes = inferred.values, inferred.sizes
    return len(program.facts.values)
