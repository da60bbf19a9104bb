"""Find the values of a graph that are Python numbers computed from sizes."""

from __future__ import annotations

from torch import fx

from fxlrp.vocabulary.lookup import Vocabulary
from fxlrp.vocabulary.no_relevance import SHAPE_ATTRIBUTES


def sizes_of(graph: fx.Graph, vocabulary: Vocabulary) -> set[fx.Node]:
    """The nodes whose value is a size, or a number that is computed from sizes."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        spelling = vocabulary.spelling(node.target) if node.op.startswith("call") else None
        sources = node.all_input_nodes
        is_size = spelling is not None and spelling.operation.is_size
        is_attribute = node.target is getattr and node.args[1] in SHAPE_ATTRIBUTES
        is_arithmetic = getattr(node.target, "__module__", None) in ("_operator", "math", "builtins")
        if is_size or is_attribute or (is_arithmetic and sources and found.issuperset(sources)):
            found.add(node)
    return found
