"""Modules of operations in a region of another precision, which PyTorch forgets when it traces the region again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from fxlrp.capture.aten import name_of

# What autocast adds in front of the operation that reads the value.
_CASTS = ("_to_copy", "to")


def regions_of(graph_module: fx.GraphModule) -> dict[str, list[fx.Node]]:
    """The operations of each region in which autocast is enabled, in order, by the name of its call."""
    return {node.name: list(_operations(graph_module, node)) for node in graph_module.graph.nodes if _is_region(node)}


def _is_region(node: fx.Node) -> bool:
    return node.target is torch.ops.higher_order.wrap_with_autocast


def _operations(graph_module: fx.GraphModule, call: fx.Node) -> Iterator[fx.Node]:
    for source in call.all_input_nodes:
        if source.op != "get_attr":
            continue
        inside = getattr(graph_module, str(source.target), None)
        if isinstance(inside, fx.GraphModule):
            for node in inside.graph.nodes:
                if node.op == "call_function":
                    yield node
                    yield from _operations(inside, node)


def restore_modules(graph: fx.Graph, regions: Mapping[str, Sequence[fx.Node]]) -> None:
    """Give the operations that were traced again the modules of those of the region, which have the same order.

    Args:
        graph: The graph that was traced again.
        regions: The result of :func:`regions_of` of the graph before.
    """
    for name, operations in regions.items():
        _restore([node for node in graph.nodes if _source(node) == name], operations)


def _source(node: fx.Node) -> Any:
    """The name of the node of the graph before."""
    sources = node.meta.get("from_node") or [None]
    return getattr(sources[-1], "name", None)


def _restore(nodes: Sequence[fx.Node], operations: Sequence[fx.Node]) -> None:
    rest, casts = list(operations), list[fx.Node]()
    for node in nodes:
        name = _name(node)
        found = next((index for index, each in enumerate(rest) if name and _name(each) == name), None)
        if found is None:
            casts = [*casts, node] if name in _CASTS else []
            continue
        for each in (*casts, node):
            each.meta["nn_module_stack"] = rest[found].meta.get("nn_module_stack")
        rest, casts = rest[found + 1 :], []


def _name(node: fx.Node) -> str:
    """The name of an operation, in place or not; empty for anything else."""
    return name_of(node.target).removesuffix("_")
