"""Reject in-place changes that ``torch.export`` would capture incorrectly.

It functionalizes a graph according to the alias annotations in the schemas of operators. ``einsum``, ``unsafe_split``,
and dropout in eval mode, may return views without such an annotation: a change of the result would not reach the
operand.
"""

from __future__ import annotations

import operator

import torch.utils._pytree as pytree
from torch import fx
from torch._ops import OpOverload

from fxlrp.errors import CaptureError
from fxlrp.vocabulary.lookup import Vocabulary


def check(graph: fx.Graph, vocabulary: Vocabulary) -> None:
    """Check that memory which an operator may share without an annotation is not changed.

    Args:
        graph: The exported graph, with its in-place operations.
        vocabulary: The canonical operations, which tell whether they allocate.

    Raises:
        CaptureError: Such memory is changed.
    """
    owner: dict[fx.Node, fx.Node] = {}
    shared: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        source = node.args[0] if node.target is operator.getitem else None
        owner[node] = owner[source] if isinstance(source, fx.Node) else node
        if not isinstance(node.target, OpOverload):
            continue
        schema = node.target._schema
        given = {argument.name: value for argument, value in zip(schema.arguments, node.args, strict=False)}
        given |= node.kwargs
        for argument in schema.arguments:
            value = given.get(argument.name)
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, fx.Node):
                _refuse_change(node, shared.get(owner[value]))
        sources = [each for each in pytree.tree_leaves(list(given.values())) if isinstance(each, fx.Node)]
        if not sources:
            continue
        if any(result.alias_info is not None for result in schema.returns):
            owner[node] = owner[sources[0]]
        elif _may_share(node.target, vocabulary):
            owner[node] = owner[sources[0]]
            shared.update({owner[source]: node for source in sources})


def _may_share(target: OpOverload, vocabulary: Vocabulary) -> bool:
    """Whether a known operation may return memory of an operand."""
    spelling = vocabulary.spelling(target.overloadpacket)
    return spelling is not None and not spelling.operation.allocates


def _refuse_change(node: fx.Node, by: fx.Node | None) -> None:
    if by is not None:
        raise CaptureError(
            f"{node.name!r} changes memory in place that {by.name!r} may share, which torch.export does not support: "
            "use an out-of-place operation"
        )
