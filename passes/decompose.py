"""Decompose composite operations into canonical ones, so that only these need rules."""

from __future__ import annotations

import operator

import torch
from torch import fx

from fxlrp.decomposition import DECOMPOSITIONS
from fxlrp.decomposition.builder import Builder, Made
from fxlrp.errors import CaptureError
from fxlrp.operation import Family, Operation
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program
from fxlrp.provenance import describe


@compiler_pass(needs=["canonical"], provides=["decomposed"])
def decompose(program: Program) -> int:
    """Replace every composite operation, and every dtype argument of a reduction; return how many there were."""
    count = 0
    for node in list(program.graph.nodes):
        operation = program.vocabulary.operation(node)
        if operation is None:
            continue
        decomposition = DECOMPOSITIONS.get(operation.name)
        if decomposition is None:
            count += _convert_first(program, node, operation)
            continue
        with program.graph.inserting_before(node):
            made = decomposition(Builder(program, node), **operation.arguments(node))
        if made is not None:
            _replace(program, node, made)
            count += 1
    return count


def _replace(program: Program, node: fx.Node, made: Made) -> None:
    if isinstance(made, fx.Node):
        # The node itself becomes the last call, and keeps its name.
        node.target, node.args, node.kwargs = made.target, made.args, made.kwargs
        program.graph.erase_node(made)
        return
    for user in list(node.users):
        index = user.args[1] if user.target is operator.getitem and user.args[0] is node else None
        if not isinstance(index, int):
            raise CaptureError(f"all results of a call are used at once; select them one by one: {describe(node)}")
        user.replace_all_uses_with(made[index])
        program.graph.erase_node(user)
    program.graph.erase_node(node)


def _convert_first(program: Program, node: fx.Node, operation: Operation) -> int:
    """Rewrite ``softmax(x, dtype=t)`` as ``softmax(x.to(t))``; sums of integers remain unchanged."""
    if "dtype" not in operation.parameters or operation.family is Family.NO_RELEVANCE:
        return 0
    arguments = operation.arguments(node)
    dtype = arguments["dtype"]
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        return 0
    with program.graph.inserting_before(node):
        converted = Builder(program, node)("to", arguments["input"], dtype)
    node.args, node.kwargs = operation.call({**arguments, "input": converted, "dtype": None})
    return 1
