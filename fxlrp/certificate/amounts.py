"""What each value contributes to the explained output: its coefficient times itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.certificate.double import InDouble
from fxlrp.certificate.forward import Forward
from fxlrp.debugging.step_by_step import StepByStep
from fxlrp.program import Relevance


@dataclass
class StepSum:
    """What a step contributes.

    Args:
        received: The coefficient times the value of the node.
        size: The sum of the absolute values of these products.
        passed_on: The sum of the coefficients times the operands.
        constants: The coefficient times what the operation adds to the part that is linear in its operands.
    """

    received: float = 0.0
    size: float = 0.0
    passed_on: float = 0.0
    constants: float = 0.0

    @property
    def absorbed(self) -> float:
        """What the step received, and neither passed on nor owes to its constants."""
        return self.received - self.passed_on - self.constants


@dataclass(frozen=True)
class Amounts:
    """The contributions to one explained number.

    Args:
        output: The explained number: the initial coefficients times the output.
        ends: What each end contributes.
        coefficients: The coefficients at the ends.
        steps: What the steps received and passed on.
    """

    output: float
    ends: Mapping[fx.Node, float]
    coefficients: Mapping[fx.Node, Tensor]
    steps: Mapping[fx.Node, StepSum]


class Relevances:
    """Runs the relevance program with coefficients, for any coefficients of the output."""

    def __init__(self, steps: StepByStep, run: InDouble, nodes: Sequence[fx.Node], forward: Forward) -> None:
        """Prepare to run the nodes that follow the initial relevance.

        Args:
            steps: The explanation, with coefficients.
            run: Computes its nodes.
            nodes: The nodes, in order.
            forward: The results of the forward program.
        """
        self._steps, self._run, self._nodes, self._forward = steps, run, nodes, forward
        self._last = {source: node for node in nodes for source in (node, *node.all_input_nodes)}
        self._ends = {relevance: value for value, relevance in steps.ends}

    def of(self, start: Tensor) -> Amounts:
        """Return the contributions for the coefficients of the output."""
        values = {**self._forward.values, self._steps.start: start}
        products = _Products(self._steps, self._forward, values)
        products.add(self._steps.start)
        gone: defaultdict[fx.Node, list[fx.Node]] = defaultdict(list)
        for source, node in self._last.items():
            if source not in self._forward.values and source not in self._ends:
                gone[node].append(source)
        for node in self._nodes:
            values[node] = self._run.value(node, *self._run.call(node, values))
            products.add(node)
            for each in gone[node]:
                values.pop(each, None)
        output = inner(start, values[self._steps.explained])
        coefficients = {value: values[relevance] for relevance, value in self._ends.items()}
        ends = {value: inner(factor, values[value]) for value, factor in coefficients.items()}
        return Amounts(output, ends, coefficients, products.sums)


class _Products:
    """Multiplies coefficients with values as soon as they are computed."""

    def __init__(self, steps: StepByStep, forward: Forward, values: Mapping[fx.Node, Any]) -> None:
        self.sums = {flow.node: StepSum() for flow in steps.flows}
        self._values, self._constants = values, forward.constants
        self._readers: defaultdict[fx.Node, list[tuple[fx.Node, Relevance, bool]]] = defaultdict(list)
        for node in self.sums:
            flow = steps.program.emitted.flows[node]
            for relevances, is_received in ((flow.received, True), (flow.passed_on, False)):
                for each in relevances:
                    self._readers[each.factor].append((node, each, is_received))

    def add(self, factor: fx.Node) -> None:
        """Add the products with a coefficient that was just computed."""
        for node, relevance, is_received in self._readers.get(factor, ()):
            assert relevance.base is not None
            coefficient, value, found = self._values[factor], self._values[relevance.base], self.sums[node]
            if not is_received:
                found.passed_on += inner(coefficient, value)
                continue
            found.received += inner(coefficient, value)
            found.size += float(_products(coefficient, value).abs().sum())
            constant = self._constants.get(node)
            if constant is not None:
                # A part of several results is the second argument of the node that selects it.
                part = constant if isinstance(constant, Tensor) else constant[relevance.base.args[1]]
                found.constants += inner(coefficient, part.expand_as(value))


def inner(a: Tensor, b: Tensor) -> float:
    """The inner product; real and imaginary parts count as numbers of their own."""
    return float(_products(a, b).sum())


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Coefficients times values; what has no coefficient may be infinite, as numbers that pad for max pooling are."""
    if a.is_complex() or b.is_complex():
        a, b = (torch.view_as_real(each.to(torch.complex128).resolve_conj()) for each in (a, b))
    return (a * b).masked_fill(a == 0, 0.0)
