"""Parts of a graph: the nodes that compute values, copies of nodes, and modules of their own."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
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


def reads_type(node: fx.Node) -> bool:
    """Whether a node reads the type or the device of a value, and neither its shape nor its elements."""
    return node.target is getattr and node.args[1] in ("dtype", "device")


def copy_nodes(nodes: Iterable[fx.Node], graph: fx.Graph, copies: MutableMapping[fx.Node, fx.Node]) -> None:
    """Copy nodes into a graph, like ``fx.Graph.node_copy`` in little more than half of its time.

    Args:
        nodes: The nodes, in order.
        graph: The graph, at whose insertion point they are added.
        copies: The copies by node, to which these are added. It contains those of all other nodes that they read.
    """
    for node in nodes:
        # Without arguments, among which create_node would look for symbolic numbers: the node has none.
        made = graph.create_node(node.op, node.target, name=node.name, type_expr=node.type)
        if node.args:
            made.args = fx.map_arg(node.args, copies.__getitem__)
        if node.kwargs:
            made.kwargs = fx.map_arg(node.kwargs, copies.__getitem__)
        made.meta.update(node.meta)
        copies[node] = made


def copied(graph: fx.Graph, copies: MutableMapping[fx.Node, fx.Node] | None = None) -> fx.Graph:
    """Return a copy of a graph, and add the copies of its nodes to ``copies``."""
    other = fx.Graph()
    copy_nodes(graph.nodes, other, {} if copies is None else copies)
    return other


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
    copy_nodes(body, graph, copies)
    graph.output(fx.map_arg(results, copies.__getitem__))
    return forgotten_with_code(fx.GraphModule(nn.Module(), graph, class_name=name))
