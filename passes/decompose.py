"""Rewrite composite operations into the canonical ones that they are made of, so that these alone need rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from fxlrp.operation import Family
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program
from fxlrp.provenance import provenance


class _Builder:
    """Makes canonical calls in the place of a composite one."""

    def __init__(self, program: Program, node: fx.Node) -> None:
        self._program, self._node = program, node

    def __call__(self, operation: str, *args: Any, **kwargs: Any) -> fx.Node:
        made = self._program.graph.call_function(self._program.vocabulary.operations[operation].function, args, kwargs)
        made.meta = provenance(self._node)
        return made


def _scaled(build: _Builder, value: Any, alpha: Any) -> Any:
    return value if alpha == 1 else build("mul", value, alpha)


def _rsub(build: _Builder, input: Any, other: Any, alpha: Any) -> fx.Node:
    return build("sub", other, _scaled(build, input, alpha))


def _add_scaled(build: _Builder, input: Any, other: Any, alpha: Any) -> fx.Node:
    return build("add", input, _scaled(build, other, alpha))


def _sub_scaled(build: _Builder, input: Any, other: Any, alpha: Any) -> fx.Node:
    return build("sub", input, _scaled(build, other, alpha))


def _glu(build: _Builder, input: Any, dim: int) -> fx.Node:
    halves = build("chunk", input, 2, dim=dim)
    return build("mul", build("getitem", halves, 0), build("sigmoid", build("getitem", halves, 1)))


def _where_method(build: _Builder, input: Any, condition: Any, other: Any) -> fx.Node:
    return build("where", condition, input, other)


DECOMPOSITIONS: Mapping[str, Callable[..., fx.Node]] = {
    "rsub": _rsub,
    "add_scaled": _add_scaled,
    "sub_scaled": _sub_scaled,
    "glu": _glu,
    "where_method": _where_method,
}


@compiler_pass(needs=["canonical"], provides=["decomposed"])
def decompose(program: Program) -> int:
    """Replace every composite operation; return how many there were."""
    count = 0
    for node in list(program.graph.nodes):
        operation = program.vocabulary.operation(node)
        if operation is None or operation.family is not Family.COMPOSITE:
            continue
        with program.graph.inserting_before(node):
            made = DECOMPOSITIONS[operation.name](_Builder(program, node), **operation.arguments(node))
        # The node itself becomes the last of them, and keeps its name.
        node.target, node.args, node.kwargs = made.target, made.args, made.kwargs
        program.graph.erase_node(made)
        count += 1
    return count
