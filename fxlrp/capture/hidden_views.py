"""Reject in-place changes that ``torch.export`` would capture incorrectly.

It functionalizes a graph according to the alias annotations in the schemas of operators. ``einsum``, ``unsafe_split``,
and dropout in eval mode, may return views without such an annotation: a change of the result would not reach the
operand. Elements of an expanded tensor share memory with each other: a change of one would not reach the others.
"""

from __future__ import annotations

import operator
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, fx
from torch._ops import OpOverload

from fxlrp.errors import CaptureError
from fxlrp.vocabulary.lookup import Vocabulary


def check(graph: fx.Graph, vocabulary: Vocabulary) -> None:
    """Check that memory is not changed which an operator may share without an annotation, or elements with each other.

    Args:
        graph: The exported graph, with its in-place operations.
        vocabulary: The canonical operations, which tell whether they allocate.

    Raises:
        CaptureError: Such memory is changed.
    """
    owner: dict[fx.Node, fx.Node] = {}
    shared: dict[fx.Node, fx.Node] = {}
    overlapping: set[fx.Node] = set()
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
                if value in overlapping:
                    raise CaptureError(
                        f"{node.name!r} changes {value.name!r} in place, whose elements may share memory with each "
                        "other, as those of an expanded tensor do: use an out-of-place operation"
                    )
        sources = [each for each in pytree.tree_leaves(list(given.values())) if isinstance(each, fx.Node)]
        if not sources:
            continue
        if any(result.alias_info is not None for result in schema.returns):
            owner[node] = owner[sources[0]]
            if sources[0] in overlapping or _overlaps(node.meta["val"]):
                overlapping.add(node)
        elif _may_share(node.target, vocabulary):
            owner[node] = owner[sources[0]]
            shared.update({owner[source]: node for source in sources})


def _overlaps(value: Any) -> bool:
    """Whether elements of a view share memory with each other, as far as its sizes and strides tell."""
    if not isinstance(value, Tensor):
        return False
    known = []
    for size, stride in zip(value.shape, value.stride(), strict=True):
        if isinstance(stride, int) and stride == 0 and not (isinstance(size, int) and size == 1):
            return True
        if isinstance(stride, int) and not (isinstance(size, int) and size == 1):
            # A size that is not known counts as two, the least that matters.
            known.append((stride, size if isinstance(size, int) else 2))
    reached = 0
    for stride, size in sorted(known):
        if stride <= reached:
            return True
        reached += (size - 1) * stride
    return False


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
