"""Parts of a graph: the nodes that compute values, and modules of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import fx, nn

from fxlrp.generated_code import forgotten_with_code


def needed_for(values: Iterable[fx.Node], given: Iterable[fx.Node] = ()) -> set[fx.Node]:
    """Return the nodes that compute ``values``, and these, without those that are ``given`` and what computes them."""
    known, needed, waiting = set(given), set[fx.Node](), list(values)
    while waiting:
        node = waiting.pop()
        if node not in needed and node not in known:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
    return needed


def part(name: str, inputs: Sequence[fx.Node], body: Sequence[fx.Node], results: Any) -> fx.GraphModule:
    """Return a module that computes ``results`` from ``inputs`` with the nodes ``body``.

    Args:
        name: The name of its class.
        inputs: The nodes whose values it takes, in order.
        body: The nodes that it computes, in order.
        results: What it returns: nodes, in any structure.
    """
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
    for node in body:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(fx.map_arg(results, copies.__getitem__))
    return forgotten_with_code(fx.GraphModule(nn.Module(), graph, class_name=name))
