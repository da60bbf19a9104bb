"""Copy the calls of a traced graph into a step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from fxlrp.errors import InternalError
from fxlrp.graph_parts import needed_for
from fxlrp.program import SIZE
from fxlrp.relevance.element_relevance import distances_backward, written_into_strides
from fxlrp.relevance.step import Step

# A view of a contiguous fake tensor may be a copy where the real one has other strides.
_RESHAPED = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default, torch.ops.aten._reshape_alias.default)

# What autograd detaches is still a value of the step, whose derivative must not be cut.
_SAME = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)

# Other calls may not take a view of a tensor that is still to be conjugated or negated.
_LAZY = {
    torch.ops.aten._conj.default: torch.ops.aten.conj_physical.default,
    torch.ops.aten._neg_view.default: torch.ops.aten.neg.default,
}


# torch.vmap, which maps steps over questions, has no rules for these calls of ATen, or wrong ones, but for others.
_MAPPABLE = {
    torch.ops.aten.sym_size.int: Tensor.size,
    torch.ops.aten.sym_stride.int: Tensor.stride,
    torch.ops.aten.sym_numel.default: Tensor.numel,
    torch.ops.aten.sym_storage_offset.default: Tensor.storage_offset,
    torch.ops.aten.as_strided_scatter.default: written_into_strides,
    torch.ops.aten._cdist_backward.default: distances_backward,
}

# The fake tensors were contiguous. These calls take no others, or give other factors, which the derivative reads.
_OF_CONTIGUOUS = (
    torch.ops.aten.view_as_complex.default,
    torch.ops.aten.native_group_norm.default,
    torch.ops.aten.native_group_norm_backward.default,
    torch.ops.aten._pdist_backward.default,
    torch.ops.aten._linalg_det.default,
    torch.ops.aten._linalg_slogdet.default,
    torch.ops.aten._linalg_solve_ex.default,
)

_STRIDED = (
    torch.ops.aten.as_strided.default,
    torch.ops.aten.as_strided_scatter.default,
    torch.ops.aten.new_empty_strided.default,
    torch.ops.aten.sym_stride.int,
)


_EMPTY = frozenset("empty empty_like empty_strided new_empty new_empty_strided".split())
# They overwrite their first argument, and read only its sizes and strides.
_OVERWRITE = frozenset("copy fill zero".split())


def _name(node: fx.Node) -> str:
    return str(node.target._schema.name).removeprefix("aten::") if isinstance(node.target, OpOverload) else ""


def reads_unwritten(nodes: Collection[fx.Node]) -> bool:
    """Whether functional calls read the elements of a tensor without values, because a write to it was lost."""
    return any(
        _name(node) in _EMPTY and any(user in nodes and _name(user) not in _OVERWRITE for user in node.users)
        for node in nodes
    )


def contiguous(value: Any) -> Any:
    """A tensor in contiguous memory; a number as it is."""
    return value.contiguous() if isinstance(value, Tensor) else value


def inlined(step: Step, graph: fx.Graph, inputs: Sequence[fx.Node], contributions: int) -> tuple[fx.Node, ...]:
    """Copy the calls of a traced graph, except that of the operation itself, whose value the program has.

    Args:
        step: The step.
        graph: The traced graph, without dead code. It is not changed: other steps may have the same.
        inputs: The values that it takes.
        contributions: The number of its first results that are contributions, which are returned.
    """
    depends_on_strides = any(node.target in _STRIDED for node in graph.nodes)
    if depends_on_strides:
        # The fake tensors were contiguous.
        inputs = [step.call(contiguous, each) for each in inputs]
    values: dict[fx.Node, Any] = dict(zip(graph.find_nodes(op="placeholder"), inputs, strict=True))
    results = graph.output_node().args[0]
    assert isinstance(results, tuple | list)
    value = results[-1]
    # A value that is looked for among others is computed as they are: another kernel may round it otherwise.
    is_looked_for = any(node.target is torch.ops.aten.eq.Tensor for node in graph.nodes)
    if (
        isinstance(value, fx.Node)
        and value not in values
        and not (step.operation.multiple_results or depends_on_strides or is_looked_for)
    ):
        values[value] = step.node
    needed = needed_for([each for each in results[:contributions] if isinstance(each, fx.Node)], given=values)
    if reads_unwritten(needed):
        raise InternalError(f"the trace of the step of {step.operation.name} reads memory that nothing has written")
    for node in graph.nodes:
        if node not in needed:
            continue
        if node.op != "call_function":
            raise InternalError(f"the derived step of {step.operation.name} reads a constant, {node.target}")
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        if isinstance(kwargs.get("device"), torch.device):
            # Tensors that the step makes are on the device of its relevance, not on that of the examples.
            kwargs = {**kwargs, "device": step.call(getattr, inputs[-1], "device")}
            kwargs["device"].meta[SIZE] = True
        if node.target in _LAZY and isinstance(args[0], complex):
            values[node] = args[0].conjugate() if node.target is torch.ops.aten._conj.default else -args[0]
        elif node.target in _SAME:
            values[node] = args[0]
        elif node.target in _RESHAPED:
            values[node] = step.call(torch.ops.aten.reshape.default, args[0], args[1])
        else:
            if node.target in _OF_CONTIGUOUS:
                args = tuple(step.call(contiguous, each) for each in args)
            target = (_MAPPABLE | _LAZY).get(node.target, node.target)
            values[node] = step.call(target, *args, **kwargs)
        if SIZE in node.meta:
            values[node].meta[SIZE] = True
    return tuple(values[each] for each in results[:contributions] if isinstance(each, fx.Node))
