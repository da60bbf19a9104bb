"""Make repeated blocks functions that ``torch.compile`` compiles once.

The functions are nested regions (``torch.compiler.nested_compile_region``). Without ``torch.compile`` they are called
like any other function.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxlrp.generated_code import forgotten_with_code
from fxlrp.graph_parts import copy_nodes
from fxlrp.passes.base import compiler_pass
from fxlrp.program import SIZE, Program
from fxlrp.provenance import provenance
from fxlrp.relevance.allocation import declares_allocation
from fxlrp.repeats import Finder, Part
from fxlrp.vocabulary.sizes import sizes_of

# By default it is an error if a function is compiled more than eight times, such as for layouts that differ. Earlier
# versions have no limit.
_LIMIT = "max_reuse_entries"
_HAS_LIMIT = _LIMIT in inspect.signature(torch.compiler.nested_compile_region).parameters
_OPTIONS: dict[str, Any] = {_LIMIT: 1000} if _HAS_LIMIT else {}


@compiler_pass(
    needs=["relevance"],
    after=["checkpoint", "share_across_batch", "keep_pool_indices", "keep_constants", "stack_questions"],
)
def nest_regions(program: Program) -> int:
    """Replace repeated blocks by calls of functions; return how many calls.

    The steps of several questions are one function already.
    """
    if program.options.question.stacked:
        return 0
    kinds = _Kinds(program)
    finder = Finder(kinds.key, kinds.is_view, kinds.may_be_taken_out)
    groups = [group for run in _runs(program) for group in finder.groups(run)]
    regions = [_Region.of(kinds, group, f"region_{index}") for index, group in enumerate(groups)]
    taken_out: dict[fx.Node, fx.Node] = {}
    for region in regions:
        for part in region.parts:
            taken_out |= _replace(program, region, part, taken_out)
    for node in reversed(taken_out.values()):
        if not node.users:
            program.graph.erase_node(node)
    return sum(map(len, groups))


class _Kinds:
    """What the nodes of a program compute, and which of them are tensors."""

    def __init__(self, program: Program) -> None:
        self._values, self._vocabulary = program.facts.values, program.vocabulary
        nodes = list(program.graph.nodes)
        self._forward = set(nodes[: program.start])
        self._sizes = sizes_of(program.graph, program.vocabulary)

    def key(self, node: fx.Node) -> Hashable:
        """What a node computes: the call, without its operands but with their shapes and types."""
        call = fx.map_arg((node.args, node.kwargs), lambda each: repr(self._values.get(each.name)))
        return node.target, repr(call), repr(self._values.get(node.name))

    def is_view(self, node: fx.Node) -> bool:
        """Whether a forward node may share the memory of its operand: regions exchange no such tensors."""
        operation = self._vocabulary.operation(node)
        if operation is None or node not in self._forward or not (operation.moves or operation.is_cast):
            return False
        (first, *_) = operation.operands_of(node)
        if operation.allocates or not isinstance(first, fx.Node):
            return False
        return not self._is_several(first) or self.is_view(first)

    def allocates(self, node: fx.Node) -> bool:
        """Whether a tensor is known to have memory of its own."""
        operation = self._vocabulary.operation(node)
        return node in self._forward or (declares_allocation(node.target) if operation is None else operation.allocates)

    def is_returned(self, part: Part, position: int) -> bool:
        """Whether a region returns a value; numbers and views are computed where they are read."""
        node = part.nodes[position]
        if node in self._forward and (self.is_view(node) or node in self._sizes):
            return False
        return SIZE not in node.meta and not self._is_several(node)

    def read_outside(self, part: Part) -> set[int]:
        """The positions of what is read outside of a part, if numbers that are read there are computed there."""
        order = {node: position for position, node in enumerate(part.nodes)}
        read = set(part.outputs)
        for position in reversed(range(len(part.nodes))):
            if position in read and not self.is_returned(part, position):
                read.update(order[each] for each in part.nodes[position].all_input_nodes if each in order)
        return read

    def _is_several(self, node: fx.Node) -> bool:
        """Whether the value of a node is several tensors; of a relevance step that is known by how it is read."""
        operation = self._vocabulary.operation(node)
        if node in self._forward and operation is not None:
            return operation.multiple_results
        return node.op == "call_function" and all(user.target is operator.getitem for user in node.users)

    def may_be_taken_out(self, part: Part) -> bool:
        """Whether nothing outside reads several tensors that a part computes, or numbers that are made of them."""
        read = [part.nodes[position] for position in self.read_outside(part)]
        return not any(self._is_several(node) and not self.is_view(node) for node in read)


def _runs(program: Program) -> list[list[fx.Node]]:
    """Nodes that may become parts of functions, divided where a value is known by its name.

    Parameters and what is computed from them alone are computed outside.
    """
    interface, facts = program.emitted.interface, program.facts
    names = {*interface.starts, *interface.starts.values()}
    names.update(name for each in interface.results for name in (each.value, each.relevance) if name is not None)
    fixed: set[fx.Node] = set()
    runs: list[list[fx.Node]] = [[]]
    for node in program.graph.nodes:
        if node.op == "get_attr" or (
            node.op == "call_function" and node.args and fixed.issuperset(node.all_input_nodes)
        ):
            fixed.add(node)
        elif node.op != "call_function" or node.name in names or node is facts.positions:
            runs.append([])
        else:
            runs[-1].append(node)
    return runs


@dataclass(frozen=True)
class _Region:
    """A function that computes equal parts.

    Args:
        function: The function of the inputs of a part, after an argument that it does not read.
        parts: The parts.
        returned: The positions of what it returns.
        read: The positions of what is read outside of a part.
    """

    function: Callable[..., Any]
    parts: list[Part]
    returned: list[int]
    read: list[int]

    @classmethod
    def of(cls, kinds: _Kinds, parts: list[Part], name: str) -> _Region:
        part = parts[0]
        read = sorted({position for each in parts for position in kinds.read_outside(each)})
        returned = [position for position in read if kinds.is_returned(part, position)]
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        for index, node in enumerate(part.inputs):
            copies[node] = graph.placeholder(f"value_{index}")
        copy_nodes((*part.views, *part.nodes), graph, copies)
        results = [part.nodes[position] for position in returned]
        own = [
            copies[node] if kinds.allocates(node) else graph.call_function(torch.clone, (copies[node],))
            for node in results
        ]
        graph.output(tuple(own))
        forward = type(forgotten_with_code(fx.GraphModule(nn.Module(), graph))).forward
        function: Callable[..., Any] = torch.compiler.nested_compile_region(forward, **_OPTIONS)
        function.__name__ = function.__qualname__ = name
        function.__module__ = __name__
        return cls(function, parts, returned, read)


def _replace(program: Program, region: _Region, part: Part, known: Mapping[fx.Node, fx.Node]) -> dict[fx.Node, fx.Node]:
    """Replace a part by a call, and compute the numbers and views that are read outside from its results.

    Returns:
        The nodes that take the places of nodes of the part.
    """
    inside, copies = set(part.nodes), dict[fx.Node, fx.Node]()
    inputs = [known.get(each, each) for each in part.inputs]
    with program.graph.inserting_after(part.nodes[-1]):
        call = after = program.graph.call_function(region.function, (None, *inputs))
    call.meta = provenance(part.nodes[-1])
    for index in region.read:
        node = part.nodes[index]
        with program.graph.inserting_after(after):
            if index in region.returned:
                after = program.graph.call_function(operator.getitem, (call, region.returned.index(index)))
            else:
                after = program.graph.node_copy(node, lambda each: copies.get(each, each))
        after.meta = dict(node.meta)
        copies[node] = after
    for node, copy in copies.items():
        node.replace_all_uses_with(copy, lambda user: user not in inside)
    names = {copy: node.name for node, copy in copies.items()}
    for node in reversed(part.nodes):
        program.graph.erase_node(node)
    for copy, name in names.items():
        copy._rename(name)
    return copies
