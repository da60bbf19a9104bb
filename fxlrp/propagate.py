"""Walk the annotated nodes from the outputs back, and emit the relevance step of each.

The emitter of a rule takes the relevance of its node and returns one contribution for each operand. Contributions to a
value that is used more than once add up. This module does not depend on any rule.
"""

from __future__ import annotations

import functools
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import fx

from fxlrp.errors import InputError, InternalError
from fxlrp.parameters import ParameterSteps
from fxlrp.program import Annotation, Flow, Program, Relevance, annotation, operation_under, receivers
from fxlrp.provenance import describe, provenance
from fxlrp.relevance import implementation
from fxlrp.relevance.coefficients import coefficient
from fxlrp.relevance.derived import complex_implementation
from fxlrp.relevance.numerics import finite_product, multiply_components
from fxlrp.relevance.step import Contributions, Implementation, Step, StepFacts

Condition: TypeAlias = Callable[[fx.Node], fx.Node]
"""Emits the part of a relevance, or of a coefficient, that satisfies a condition."""


def propagate(
    program: Program,
    forward: Sequence[fx.Node],
    starts: Mapping[fx.Node, fx.Node],
    conditions: Mapping[fx.Node, Condition] | None = None,
    parameters: Sequence[fx.Node] = (),
) -> Ledger:
    """Emit the steps of the annotated nodes at the insertion point; return the relevance that every value received.

    Args:
        program: The annotated program.
        forward: The nodes of the forward graph, in order.
        starts: The initial relevance of each explained value.
        conditions: Emit the part of the relevance of a value that satisfies a condition.
        parameters: The nodes that read the parameters whose relevance is requested.
    """
    ledger, of_parameters = Ledger(program, forward), ParameterSteps(program, forward, parameters)
    for explained, start in starts.items():
        base = explained if program.options.question.coefficients else None
        ledger.credit(explained, Relevance(start, base), by=None)
    for node in reversed(forward):
        if conditions and node in conditions:
            question = program.options.question
            ledger.restrict(node, conditions[node], bypass=question.bypass, coefficients=question.coefficients)
        annotated = annotation(node)
        # With a condition, relevance may bypass a node on every way to the result.
        if node in ledger.without:
            ledger.without.update(dict.fromkeys(receivers(node, program.vocabulary), ledger.without[node]))
        elif annotated is not None and (not conditions or ledger.received(node) is not None):
            ledger.flows[node] = _emit_step(program, node, annotated, ledger, of_parameters)
        of_parameters.pass_on(node, ledger)
    return ledger


def _emit_step(
    program: Program, node: fx.Node, annotated: Annotation, ledger: Ledger, of_parameters: ParameterSteps
) -> Flow:
    operation = program.vocabulary.operation(node)
    how = implementation(operation, annotated.rule) if operation else None
    received = ledger.received(node)
    if operation is None or how is None or received is None:
        raise InternalError(f"no relevance arrived at the annotated node {node.name!r}")
    arrived = (received,) if isinstance(received, Relevance) else tuple(received.values())
    operation = operation_under(operation, annotated.rule)
    operands, index = operation.operands_of(node), program.vocabulary.result_index(node)
    if index is not None:
        ledger.credit_part(operands[0], index, received)
        return Flow(arrived, arrived)
    known = program.facts
    as_coefficients = program.options.question.coefficients
    facts = StepFacts(
        known.non_negative,
        known.finite,
        known.infinite,
        node in known.supported,
        node in known.quotients or (as_coefficients and how.quotients),
        as_coefficients,
        {**known.values, **known.sizes},
        program.options.differentiable,
    )
    multiply = functools.partial(ledger.multiplied, node)
    step = Step(program.graph, node, operation, annotated.rule, annotated.carries, received, facts, multiply)
    if step.reads_complex and not how.of_complex:
        how = complex_implementation(operation, annotated.rule)
    # A rule may give all relevance to an operand that does not depend on the input.
    contributions = _contributions(step, how) if annotated.carries else (None,) * len(operands)
    _check(node, annotated, operands, contributions)
    credited: list[Relevance] = []
    for operand, contribution in zip(operands, contributions, strict=True):
        if contribution is None:
            continue
        relevance = Relevance(contribution) if isinstance(contribution, fx.Node) else contribution
        passed = coefficient(step, operand, relevance) if as_coefficients else relevance
        if passed is not None:
            credited.append(passed)
            ledger.credit(operand, passed, by=node)
        else:
            ledger.without[operand] = node
    of_parameters.credit(step, how, ledger)
    return Flow(arrived, tuple(credited))


def _contributions(step: Step, how: Implementation) -> Contributions:
    contributions = how.specialize(step)
    return how.emit(step) if contributions is None else contributions


def _check(node: fx.Node, annotated: Annotation, operands: tuple[Any, ...], contributions: Contributions) -> None:
    given = tuple(position for position, contribution in enumerate(contributions) if contribution is not None)
    if len(contributions) != len(operands) or given != annotated.carries:
        raise InternalError(
            f"{annotated.rule} at {node.name!r} gave contributions to the operands {given} of {len(contributions)}, "
            f"but is annotated with {annotated.carries} of {len(operands)}"
        )


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
