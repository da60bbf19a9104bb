"""Account for the relevance that each value has received while the relevance steps are emitted."""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import fx

from fxlrp.errors import InputError
from fxlrp.program import Flow, Program, Relevance, receivers
from fxlrp.provenance import describe, provenance
from fxlrp.relevance.numerics import finite_product, multiply_components

Condition: TypeAlias = Callable[[fx.Node], fx.Node]
"""Emits the part of a relevance, or of a coefficient, that satisfies a condition."""


class Ledger:
    """Records the relevance that each value has received so far, and in which form, and names its nodes."""

    def __init__(self, program: Program, forward: Sequence[fx.Node]) -> None:
        """Start before any value of the forward graph has received relevance."""
        self.flows: dict[fx.Node, Flow] = {}
        self.without: dict[fx.Node, fx.Node] = {}
        """The values without a coefficient, each with the node whose rule does not pass on multiples of them."""
        self._graph, self._facts = program.graph, program.facts
        self._received: dict[fx.Node, Relevance] = {}
        self._parts: dict[fx.Node, dict[int, Relevance]] = defaultdict(dict)
        self._products: dict[tuple[fx.Node, fx.Node | None], fx.Node] = {}
        self._outstanding: Counter[fx.Node] = Counter()
        self._order = {node: index for index, node in enumerate(forward)}
        for node in forward:
            self._outstanding.update(receivers(node, program.vocabulary))

    def credit(self, value: fx.Node, relevance: Relevance, by: fx.Node | None) -> None:
        """Add a contribution to the relevance of ``value``."""
        shared = by is not None and (self._outstanding[value] > 1 or value in self._received)
        suffix = f"_from_{by.name}" if by and shared else ""
        if not relevance.factor.name.startswith(("r_", "q_")):
            _rename(relevance, value, suffix)
        self._outstanding[value] -= 1
        if value in self._received:
            relevance = self._sum(value, self._received[value], relevance)
            relevance.factor.meta = provenance(value)
            _rename(relevance, value, "_so_far" * (self._outstanding[value] > 0))
        self._received[value] = relevance

    def restrict(self, value: fx.Node, condition: Condition, *, bypass: bool, coefficients: bool) -> None:
        """Keep only the relevance of ``value`` that satisfies a condition.

        Args:
            value: A value whose relevance is complete.
            condition: Emits the relevance that satisfies the condition.
            bypass: Whether to keep the relevance that other values have received and not passed on yet.
            coefficients: Whether the condition is one on the coefficient.

        Raises:
            InputError: No relevance reaches the value.
        """
        received = self._received.get(value)
        if received is None:
            raise InputError(
                f"only={{{value.name!r}: ...}}: no relevance reaches the {describe(value)} through the other values of "
                "the condition"
            )
        # A condition may be a function, and is one of the relevance itself.
        if not coefficients:
            received = Relevance(self.multiplied(value, received))
        kept = Relevance(condition(received.factor), received.base)
        _rename(kept, value, "_kept")
        self._received[value] = kept
        if not bypass:
            position = self._order[value]
            # Parameters have received what passed through them, wherever the graph reads them.
            self._received = {
                each: had
                for each, had in self._received.items()
                if self._order[each] >= position or each not in self._facts.dependent
            }
            self._parts.clear()

    def credit_part(self, value: fx.Node, index: int, relevance: Any) -> None:
        """Add a contribution to one of the results of ``value``."""
        parts = self._parts[value]
        parts[index] = self._sum(value, parts[index], relevance) if index in parts else relevance

    def received(self, value: fx.Node) -> Relevance | Mapping[int, Relevance] | None:
        """The relevance of ``value``, by result if it has several; None if it received none."""
        return self._parts.get(value) or self._received.get(value)

    def relevance(self, value: fx.Node) -> fx.Node | None:
        """The relevance of a value with one result, multiplied out; None if it received none."""
        received = self._received.get(value)
        return None if received is None else self.multiplied(value, received)

    def relevance_of_one(self, value: fx.Node) -> Relevance | None:
        """The relevance of a value with one result, as it is carried; None if it received none."""
        return self._received.get(value)

    def multiplied(self, value: fx.Node, relevance: Relevance, *, whole: bool = True) -> fx.Node:
        """The relevance itself, emitted once if it is carried as a quotient; of the whole ``value`` or a part."""
        if relevance.base is None:
            return relevance.factor
        key = (relevance.factor, relevance.base)
        if key not in self._products:
            product = self._graph.call_function(self._product_with(relevance.base), (relevance.factor, relevance.base))
            product.meta = provenance(value)
            own = relevance.factor.name.removeprefix(f"q_{value.name}")
            suffix = own if own != relevance.factor.name else "" if whole else f"_from_{relevance.base.name}"
            product._rename(f"r_{value.name}{suffix}")
            self._products[key] = product
        return self._products[key]

    def _product_with(self, base: fx.Node) -> Callable[..., Any]:
        """The product of a base and a factor."""
        spec = self._facts.values.get(base.name)
        if spec is not None and spec.dtype.is_complex:
            return multiply_components
        return finite_product if base in self._facts.infinite else operator.mul

    def _sum(self, value: fx.Node, first: Relevance, second: Relevance) -> Relevance:
        """Add two contributions; quotients by different values are multiplied out first."""
        if first.base is second.base:
            return Relevance(self._graph.call_function(operator.add, (first.factor, second.factor)), first.base)
        terms = tuple(self.multiplied(value, each, whole=False) for each in (first, second))
        return Relevance(self._graph.call_function(operator.add, terms))


def _rename(relevance: Relevance, value: fx.Node, suffix: str) -> None:
    relevance.factor._rename(f"{'q' if relevance.base else 'r'}_{value.name}{suffix}")
