"""Find the nodes whose value depends on an input through tensors: relevance can reach no others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from fxlrp.errors import CaptureError
from fxlrp.operation import Family, Operation
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program


@compiler_pass(needs=["decomposed"], provides=["dependence"])
def infer_dependence(program: Program) -> int:
    """Follow the inputs forward, up to operations that carry no relevance; return how many nodes depend on them.

    Raises:
        CaptureError: The output is not a single tensor that depends on an input.
    """
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    dependent = {node for index, node in enumerate(inputs) if index not in program.constant_inputs}
    for node in program.graph.nodes:
        if any(source in dependent for source in _sources(node, program.vocabulary.operation(node))):
            dependent.add(node)
    _check_output(program, dependent)
    program.dependent = frozenset(dependent)
    return len(dependent)


def _sources(node: fx.Node, operation: Operation | None) -> Sequence[fx.Node]:
    """The nodes whose dependence ``node`` inherits: weights such as indices and masks pass none on."""
    if operation is None:
        return node.all_input_nodes
    if operation.family is Family.NO_RELEVANCE:
        return ()
    found: list[fx.Node] = []
    for name, value in operation.arguments(node).items():
        if name not in operation.weights:
            fx.map_arg(value, found.append)
    return found


def _check_output(program: Program, dependent: set[fx.Node]) -> None:
    result: Any = program.graph.output_node().args[0]
    if not isinstance(result, fx.Node):
        raise CaptureError(
            f"the model returns a {type(result).__name__.removeprefix('immutable_')}; only a model that returns a "
            f"single tensor can be explained: wrap it in a module that returns the tensor to explain"
        )
    operation = program.vocabulary.operation(result)
    if operation is not None and operation.many:
        raise CaptureError(f"the model returns the several tensors of {operation.name}; it must return a single one")
    if result not in dependent:
        raise CaptureError(
            "no relevance can flow from the model's output to an input: the output is a constant, or depends on the "
            "inputs only through shapes, comparisons, indices or denominators"
        )
