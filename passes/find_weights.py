"""Find the factors of products that are weights which a signal selects for itself.

In a selective state-space model the signal ``x`` passes through a linear recurrence whose parameters are computed from
``x``. A factor of a product is such a weight if it is computed from the signal that another factor carries. So is a
scale, such as the exponential of a time step, beside a factor that is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx

from fxlrp.operation import Family, Operation
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program

_CARRIES = (Family.SHAPE, Family.SUM, Family.PRODUCT, Family.MATMUL, Family.AVERAGE, Family.MASK)
_PRODUCTS = (Family.PRODUCT, Family.MATMUL)


@compiler_pass(needs=["decomposed", "dependence"], provides=["weights"])
def find_weights(program: Program) -> int:
    """Record the operands of products that are weights, by node; return how many products have any."""
    search = _Search(program)
    for node in program.graph.nodes:
        search.visit(node)
    program.facts.weights = search.weights
    return len(search.weights)


@dataclass
class _Search:
    """The signals that each value carries: the values from which it is linear, apart from weights."""

    program: Program
    weights: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    _signals: dict[fx.Node, frozenset[fx.Node]] = field(default_factory=dict)
    _scales: set[fx.Node] = field(default_factory=set)
    _order: dict[fx.Node, int] = field(default_factory=dict)
    _known: dict[tuple[fx.Node, fx.Node], bool] = field(default_factory=dict)

    def visit(self, node: fx.Node) -> None:
        self._order[node] = len(self._order)
        dependent = self.program.facts.dependent
        if node not in dependent:
            return
        operation = self.program.vocabulary.operation(node)
        operands = () if operation is None else operation.operands_of(node)
        positions = [position for position, operand in enumerate(operands) if operand in dependent]
        if operation is None or operation.family not in _CARRIES or not positions or self._is_part(operands):
            self._signals[node] = frozenset([node])
        else:
            constant = self._weights(operands, positions) if operation.family in _PRODUCTS else ()
            if constant:
                self.weights[node] = constant
            carried = [operands[position] for position in positions if position not in constant]
            self._signals[node] = frozenset().union(*(self._signals[each] for each in carried))
        if operation is not None and self._is_scale(operation, node, positions):
            self._scales.add(node)

    def _is_part(self, operands: Sequence[object]) -> bool:
        """Whether the operand consists of parts, of which each is a signal of its own."""
        source = operands[0]
        operation = self.program.vocabulary.operation(source) if isinstance(source, fx.Node) else None
        return operation is not None and operation.separates

    def _is_scale(self, operation: Operation, node: fx.Node, positions: Sequence[int]) -> bool:
        if operation.tells(operation.scale, operation.arguments(node), self._scales):
            return True
        operands = operation.operands_of(node)
        passes = operation.family in (Family.SHAPE, Family.PRODUCT) and bool(positions)
        return passes and all(operands[position] in self._scales for position in positions)

    def _weights(self, operands: Sequence[fx.Node], positions: Sequence[int]) -> tuple[int, ...]:
        others = {each: [operands[other] for other in positions if other != each] for each in positions}
        found = tuple(each for each in positions if any(self._selected_by(operands[each], o) for o in others[each]))
        if found:
            return found
        scales = tuple(position for position in positions if operands[position] in self._scales)
        return scales if len(scales) < len(positions) else ()

    def _selected_by(self, factor: fx.Node, other: fx.Node) -> bool:
        """Whether everything that a factor carries is computed from a signal of the other."""
        signals = self._signals[other]
        return all(any(self._is_computed(own, signal) for signal in signals) for own in self._signals[factor])

    def _is_computed(self, value: fx.Node, source: fx.Node) -> bool:
        """Whether ``value`` is computed from ``source``, and not ``source`` itself."""
        known = self._known.get((value, source))
        if known is None:
            known = self._known[value, source] = self._reaches(value, source)
        return known

    def _reaches(self, value: fx.Node, source: fx.Node) -> bool:
        first, waiting, seen = self._order[source], [value], {value}
        while waiting:
            for each in waiting.pop().all_input_nodes:
                if each is source:
                    return True
                # What comes before the source is not computed from it.
                if each not in seen and self._order[each] > first:
                    seen.add(each)
                    waiting.append(each)
        return False
