"""Emit the relevance program behind the forward one.

Walks the annotated nodes from the output back. Each rule's emitter gets the relevance of its node and returns one
contribution for each operand; contributions to a value that is used more than once add up. Nothing here knows a rule.
"""

from __future__ import annotations

import functools
import operator
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from fxlrp.errors import InputError, InternalError
from fxlrp.operation import Operation
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Annotation, Flow, Program, Relevance, annotation, receivers
from fxlrp.provenance import describe, is_inside, provenance
from fxlrp.relevance import implementation
from fxlrp.relevance.seed import initial_relevance
from fxlrp.relevance.step import Contributions, Facts, Step


@compiler_pass(needs=["annotated", "functional", "no identities"], provides=["relevance"])
def emit_relevance(program: Program) -> int:
    """Append a step for every annotated node and return the inputs' relevance; return how many steps there are."""
    graph, output = program.graph, program.graph.output_node()
    forward = list(graph.nodes)
    inputs = [node for node in forward if node.op == "placeholder"]
    target, seed = _explanation_inputs(graph, inputs)
    explained: Any = output.args[0]
    ledger = _Ledger(program, forward)
    steps = 0
    with graph.inserting_before(output):
        start = graph.call_function(initial_relevance, (explained, target, seed))
        ledger.credit(explained, Relevance(start), by=None)
        for node in reversed(forward):
            annotated = annotation(node)
            if annotated is not None:
                _emit_step(program, node, annotated, ledger)
                steps += 1
        if program.at is None:
            results = [ledger.relevance(node) or graph.call_function(torch.zeros_like, (node,)) for node in inputs]
        else:
            results = [_relevance_at(program, program.at, forward, ledger)]
    output.type = None
    output.args = (results[0] if len(results) == 1 else tuple(results),)
    return steps


def _relevance_at(program: Program, at: str, forward: list[fx.Node], ledger: _Ledger) -> fx.Node:
    """The relevance of the value that is called ``at``, or that the module at this path hands on.

    Raises:
        InputError: There is no such value, the module hands on several, or no relevance reaches it.
    """
    readers = {*forward, program.graph.output_node()}

    def is_handed_on(node: fx.Node) -> bool:
        return is_inside(node, at) and any(user in readers and not is_inside(user, at) for user in node.users)

    found = [node for node in forward if node.name == at]
    found = found or [node for node in forward if ledger.received(node) is not None and is_handed_on(node)]
    if not found:
        raise InputError(
            f"at={at!r}: no node has this name, and no module at this path hands on a value with relevance"
        )
    if len(found) > 1:
        names = ", ".join(repr(node.name) for node in found)
        raise InputError(f"at={at!r}: the module hands on several values, or is called more than once: take {names}")
    relevance = ledger.relevance(found[0])
    if relevance is None:
        raise InputError(f"at={at!r}: no relevance reaches the {describe(found[0])}")
    return relevance


def _explanation_inputs(graph: fx.Graph, inputs: list[fx.Node]) -> tuple[fx.Node, fx.Node]:
    """The inputs that an explanation has beside the model's, which may have the same names."""
    taken = {node.target for node in inputs}
    names = ["explanation_" * (name in taken) + name for name in ("target", "seed")]
    with graph.inserting_after(inputs[-1]):
        seed = graph.placeholder(names[1], default_value=None)
        target = graph.placeholder(names[0], default_value=None)
    return target, seed


def _emit_step(program: Program, node: fx.Node, annotated: Annotation, ledger: _Ledger) -> None:
    operation = program.vocabulary.operation(node)
    how = implementation(operation, annotated.rule) if operation else None
    received = ledger.received(node)
    if operation is None or how is None or received is None:
        raise InternalError(f"no relevance arrived at the annotated node {node.name!r}")
    if not annotated.carries:
        # The rule gives all of it to an operand that does not depend on the input.
        return
    operands = operation.operands_of(node)
    if _picks_part(program, operation, operands):
        ledger.credit_part(operands[0], operation.arguments(node)["index"], received)
        return
    facts = Facts(program.non_negative, node in program.supported, node in program.quotients)
    multiply = functools.partial(ledger.multiplied, node)
    step = Step(program.graph, node, operation, annotated.rule, annotated.carries, received, facts, multiply)
    contributions = how.specialize(step)
    if contributions is None:
        contributions = how.emit(step)
    _check(node, annotated, operands, contributions)
    credited = [Relevance(each) if isinstance(each, fx.Node) else each for each in contributions]
    program.flows[node] = Flow(
        received=(received,) if isinstance(received, Relevance) else tuple(received.values()),
        handed_on=tuple(relevance for relevance in credited if relevance is not None),
    )
    for operand, relevance in zip(operands, credited, strict=True):
        if relevance is not None:
            ledger.credit(operand, relevance, by=node)


def _picks_part(program: Program, operation: Operation, operands: tuple[Any, ...]) -> bool:
    """Whether a getitem picks one of several results, rather than indexing a tensor."""
    source = program.vocabulary.operation(operands[0]) if operation.name == "getitem" else None
    return source is not None and source.many


def _check(node: fx.Node, annotated: Annotation, operands: tuple[Any, ...], contributions: Contributions) -> None:
    given = tuple(position for position, contribution in enumerate(contributions) if contribution is not None)
    if len(contributions) != len(operands) or given != annotated.carries:
        raise InternalError(
            f"{annotated.rule} at {node.name!r} made contributions to the operands {given} of {len(contributions)}, "
            f"but is annotated with {annotated.carries} of {len(operands)}"
        )


class _Ledger:
    """Which relevance each value has received so far, in which form, and what it is called."""

    def __init__(self, program: Program, forward: list[fx.Node]) -> None:
        self._graph = program.graph
        self._received: dict[fx.Node, Relevance] = {}
        self._parts: dict[fx.Node, dict[int, Relevance]] = defaultdict(dict)
        self._products: dict[tuple[fx.Node, fx.Node | None], fx.Node] = {}
        self._outstanding: Counter[fx.Node] = Counter()
        for node in forward:
            self._outstanding.update(receivers(node, program.vocabulary))

    def credit(self, value: fx.Node, relevance: Relevance, by: fx.Node | None) -> None:
        """Add one contribution to what ``value`` has received."""
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

    def credit_part(self, value: fx.Node, index: int, relevance: Any) -> None:
        """Add a contribution to one of the several results of ``value``."""
        parts = self._parts[value]
        parts[index] = self._sum(value, parts[index], relevance) if index in parts else relevance

    def received(self, value: fx.Node) -> Relevance | Mapping[int, Relevance] | None:
        """The relevance of ``value``, by result for one with several; None if it received none."""
        return self._parts.get(value) or self._received.get(value)

    def relevance(self, value: fx.Node) -> fx.Node | None:
        """The relevance of a value with one result, multiplied out; None if it received none."""
        received = self._received.get(value)
        return None if received is None else self.multiplied(value, received)

    def multiplied(self, value: fx.Node, relevance: Relevance, *, whole: bool = True) -> fx.Node:
        """The relevance itself, emitted once if it is carried as a quotient; all of ``value`` or a part of it."""
        if relevance.base is None:
            return relevance.factor
        key = (relevance.factor, relevance.base)
        if key not in self._products:
            product = self._graph.call_function(operator.mul, (relevance.factor, relevance.base))
            product.meta = provenance(value)
            own = relevance.factor.name.removeprefix(f"q_{value.name}")
            suffix = own if own != relevance.factor.name else "" if whole else f"_from_{relevance.base.name}"
            product._rename(f"r_{value.name}{suffix}")
            self._products[key] = product
        return self._products[key]

    def _sum(self, value: fx.Node, first: Relevance, second: Relevance) -> Relevance:
        """Quotients by the same value add up as they are, others multiplied out."""
        if first.base is second.base:
            return Relevance(self._graph.call_function(operator.add, (first.factor, second.factor)), first.base)
        terms = tuple(self.multiplied(value, each, whole=False) for each in (first, second))
        return Relevance(self._graph.call_function(operator.add, terms))


def _rename(relevance: Relevance, value: fx.Node, suffix: str) -> None:
    relevance.factor._rename(f"{'q' if relevance.base else 'r'}_{value.name}{suffix}")
