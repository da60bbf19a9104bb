"""Find the inputs to which no rule passes relevance, and where it stops."""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from fxlrp.program import REASON, Program, annotation, input_name, inputs_among
from fxlrp.provenance import describe


def unreached(program: Program, reached: Collection[fx.Node]) -> list[str]:
    """Say of every input that receives no relevance, though it could reach it, where the relevance stops.

    An input with a stated reason, such as one that is declared a constant, is not among them.

    Args:
        program: The annotated program.
        reached: The nodes to which relevance passes.
    """
    explained = [node for node in inputs_among(list(program.graph.nodes)) if not node.meta.get(REASON)]
    return [
        f"no rule passes relevance to the input {input_name(node)!r}, so its relevance is zero: it stops at "
        f"{_stop(program, node)}. Choose another rule"
        + (f", or declare the input by constants=[{input_name(node)!r}]" if len(explained) > 1 else "")
        for node in explained
        if node not in reached
    ]


def _stop(program: Program, start: fx.Node) -> str:
    """The first operation with a rule that depends on an input which receives no relevance."""
    depends = {start}
    for node in program.graph.nodes:
        if not depends.isdisjoint(node.all_input_nodes):
            depends.add(node)
            annotated, operation = annotation(node), program.vocabulary.operation(node)
            if annotated is not None and operation is not None:
                return f"the {describe(node, operation.name)}, whose rule is {annotated.rule}"
    return "the output"
