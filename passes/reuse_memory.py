"""Let an operation write into its operand's memory where nobody reads that afterwards."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from fxlrp.operation import Family
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program
from fxlrp.relevance import average, linear, linear_maps, linear_specialized, max_pool, normalization, quotients
from fxlrp.relevance.initial_relevance import initial_relevance


@compiler_pass(needs=["relevance"])
def reuse_memory(program: Program) -> int:
    """Make operations work in place; return how many."""
    order = {node: index for index, node in enumerate(program.graph.nodes)}
    start = min((index for node, index in order.items() if node.target is initial_relevance), default=len(order))
    count = 0
    for node, index in order.items():
        if node.target in _UNARY:
            candidates = node.args[:1]
        elif node.target in _BINARY and index > start and node not in program.recomputed:
            # What relevance steps add and multiply are tensors of one shape.
            candidates = node.args
        else:
            continue
        for operand in candidates:
            if isinstance(operand, fx.Node) and _may_overwrite(program, node, operand, order):
                node.args = (operand, *(other for other in node.args if other is not operand))
                node.target = _IN_PLACE[node.target]
                count += 1
                break
    return count


_UNARY: Mapping[Any, Callable[..., Any]] = {
    torch.relu: torch.relu_,
    quotients.stabilize_positive: quotients.stabilize_positive_,
}
_BINARY: Mapping[Any, Callable[..., Any]] = {
    operator.add: quotients.add_into,
    operator.mul: quotients.multiply_into,
}
_IN_PLACE = {**_UNARY, **_BINARY}


def _may_overwrite(program: Program, node: fx.Node, operand: fx.Node, order: Mapping[fx.Node, int]) -> bool:
    """Whether ``operand`` has memory of its own that ``node`` is the last to read."""
    others = [user for user in operand.users if user is not node]
    return (
        _has_memory_of_its_own(program, operand)
        and all(_has_memory_of_its_own(program, user) and order[user] < order[node] for user in others)
        and sum(argument is operand for argument in node.args) == 1
    )


def _has_memory_of_its_own(program: Program, node: fx.Node) -> bool:
    """Whether the result of a call shares no memory with the arguments."""
    if node.op != "call_function" or node in program.constants:
        return False
    if node.target in _ALLOCATING:
        return True
    operation = program.vocabulary.operation(node)
    return operation is not None and not operation.view and operation.family in _ALLOCATING_FAMILIES


_ALLOCATING_FAMILIES = frozenset(
    (
        *(Family.LINEAR, Family.SUM, Family.PRODUCT, Family.MATMUL, Family.ACTIVATION, Family.SOFTMAX),
        *(Family.MAX_POOL, Family.AVERAGE, Family.NORMALIZATION),
    )
)
_ALLOCATING = frozenset(
    (
        *(operator.add, operator.mul, operator.truediv, *_IN_PLACE.values()),
        *(quotients.rescale, quotients.rescale_positive, quotients.share),
        *(linear_maps.dense_transposed, linear_maps.convolution_transposed),
        linear_maps.transposed_convolution_transposed,
        *(linear.linear_epsilon, linear.linear_zplus, linear.linear_alpha_beta, linear.linear_gamma),
        *(linear_specialized.weigh, linear_specialized.of_own_sign),
        *(max_pool.max_pool_winner, max_pool.to_winners, normalization.batch_norm_transposed),
        *(average.avg_pool_transposed, average.adaptive_avg_pool_transposed),
    )
)
