"""Let an operation write into the memory of an operand that is not read afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from fxlrp.passes.base import compiler_pass
from fxlrp.program import SIZE, Program
from fxlrp.relevance.allocation import declared_form_in_two, declared_in_place_form, declares_allocation


@compiler_pass(
    needs=["relevance"],
    after=["share_across_batch", "keep_pool_indices", "keep_constants", "checkpoint"],
    cuts_derivatives=True,
)
def reuse_memory(program: Program) -> int:
    """Make operations work in place; return how many."""
    order = {node: index for index, node in enumerate(program.graph.nodes)}
    memory = _Memory(program, order)
    for node in order:
        in_place = memory.in_place_form(node)
        operand = next((each for each in memory.candidates(node) if memory.may_overwrite(node, each)), None)
        if in_place is not None and operand is not None:
            in_two = memory.form_in_two(node)
            node.args = (operand, *(other for other in node.args if other is not operand))
            node.target = in_two or in_place
            memory.reusing.add(node)
    return len(memory.reusing)


# Beside the names of nodes: a value of the relevance steps.
_STEP = "relevance step"


@dataclass
class _Memory:
    """Finds the values of a program that have their own memory and may be overwritten."""

    program: Program
    order: Mapping[fx.Node, int]
    reusing: set[fx.Node] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.start = self.program.start
        self.kept = frozenset(self.program.emitted.kept)
        self.roots = _roots_of(self.program)

    def in_place_form(self, node: fx.Node) -> Callable[..., Any] | None:
        """The function that computes the same result in the memory of its first argument."""
        operation = self.program.vocabulary.operation(node)
        return declared_in_place_form(node.target) if operation is None else operation.in_place

    def form_in_two(self, node: fx.Node) -> Callable[..., Any] | None:
        """The function that overwrites both of its first two arguments, if both may be overwritten."""
        form, arguments = declared_form_in_two(node.target), node.args[:2]
        if form is None or not all(isinstance(each, fx.Node) and self.may_overwrite(node, each) for each in arguments):
            return None
        return form

    def candidates(self, node: fx.Node) -> list[fx.Node]:
        """The operands that might be overwritten."""
        operation = self.program.vocabulary.operation(node)
        if operation is None or len(operation.operands) == 1:
            return [each for each in node.args[:1] if isinstance(each, fx.Node)]
        nodes = [each for each in node.args if isinstance(each, fx.Node)]
        # The operands of additions and products in relevance steps have the same shape.
        is_step = self.order[node] > self.start and node not in self.program.emitted.recomputed
        return nodes if is_step and len(nodes) == len(node.args) else []

    def may_overwrite(self, node: fx.Node, operand: fx.Node) -> bool:
        """Whether ``operand`` has its own memory, and ``node`` is the last to read it."""
        others = [user for user in operand.users if user is not node]
        return (
            self.is_own(operand)
            and self.roots[operand] == self.roots[node]
            and all(self.is_own(user) and self.order[user] < self.order[node] for user in others)
            and sum(argument is operand for argument in node.args) == 1
        )

    def is_own(self, node: fx.Node) -> bool:
        """Whether no value that is read later shares memory with the result of a call."""
        if node.op != "call_function" or node in self.kept or SIZE in node.meta:
            return False
        if node in self.reusing:
            return True
        operation = self.program.vocabulary.operation(node)
        return declares_allocation(node.target) if operation is None else operation.allocates


def _roots_of(program: Program) -> dict[fx.Node, frozenset[str]]:
    """The values from which each node is computed and that differ between stacked questions.

    A value of one question cannot be written into memory that all have in common. The steps of questions may run once
    for each, so none of them can overwrite what was computed before: they have ``_STEP`` in common, too.
    """
    if not program.options.question.stacked:
        return dict.fromkeys(program.graph.nodes, frozenset())
    found: dict[fx.Node, frozenset[str]] = {}
    start = program.questions_start
    for index, node in enumerate(program.graph.nodes):
        own = program.differing.intersection({node.name}) | ({_STEP} if index >= start else frozenset())
        # The size and the device of a value of a question are those of all.
        is_size = SIZE in node.meta
        found[node] = frozenset() if is_size else own.union(*(found[source] for source in node.all_input_nodes))
    return found
