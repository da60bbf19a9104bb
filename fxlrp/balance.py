"""The balance of an explanation: at which nodes relevance is created or absorbed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, fx

from fxlrp.operation import Vocabulary
from fxlrp.passes.emit_relevance import emit_relevance
from fxlrp.program import Program, Relevance, annotation
from fxlrp.provenance import module_path
from fxlrp.relevance.seed import initial_relevance
from fxlrp.rules.presets import Preset


@dataclass(frozen=True)
class NodeBalance:
    """What a node received and handed on, summed over everything.

    Args:
        node: Its name.
        operation: Its canonical operation.
        module: The path of its module.
        rule: Its rule.
        received: The relevance of its value.
        handed_on: The relevance that its operands received from it.
    """

    node: str
    operation: str
    module: str
    rule: str
    received: float
    handed_on: float

    @property
    def created(self) -> float:
        """How much more it handed on than it received; negative where it absorbed relevance."""
        return self.handed_on - self.received


@dataclass(frozen=True)
class Balance:
    """The balance of an explanation.

    Args:
        explained: The initial relevance, summed over everything: the explained outputs' values.
        at_inputs: The relevance of all inputs, or of the value that ``fxlrp.compile(..., at=...)`` names.
        nodes: The nodes that relevance passes, from the output back.
    """

    explained: float
    at_inputs: float
    nodes: tuple[NodeBalance, ...]

    def leaks(self, tolerance: float = 1e-6) -> tuple[NodeBalance, ...]:
        """The nodes that created or absorbed more than ``tolerance`` of the explained output, the largest first."""
        least = tolerance * abs(self.explained)
        found = [each for each in self.nodes if not abs(each.created) <= least]
        return tuple(sorted(found, key=lambda each: -abs(each.created)))

    def by_operation(self) -> dict[str, float]:
        """How much relevance each kind of operation created, all its nodes together; the largest first."""
        sums: dict[str, float] = {}
        for each in self.nodes:
            sums[each.operation] = sums.get(each.operation, 0.0) + each.created
        return dict(sorted(sums.items(), key=lambda item: -abs(item[1])))

    def table(self, tolerance: float = 1e-6) -> str:
        """The leaks as a table, and the sums."""
        leaks = self.leaks(tolerance)
        rows = [
            (each.node, each.operation, each.module, each.rule, each.received, each.handed_on, each.created)
            for each in leaks
        ]
        headers = ("node", "operation", "module", "rule", "received", "handed on", "created")
        leaked = tabulate(rows, headers=headers, floatfmt=".6g", disable_numparse=False) if rows else "no node leaks"
        return (
            f"{leaked}\n\n{len(leaks)} of {len(self.nodes)} nodes create or absorb more than {tolerance:g} of the "
            f"explained output\nexplained: {self.explained:.8g}, at the inputs: {self.at_inputs:.8g}"
        )

    def __str__(self) -> str:
        """:meth:`table`."""
        return self.table()


def measure(
    graph_module: fx.GraphModule,
    annotated: fx.Graph,
    vocabulary: Vocabulary,
    at: str | None,
    values: Sequence[Tensor],
    explained: Any,
) -> Balance:
    """Run the explanation step by step, without optimizations, and sum up each step.

    Args:
        graph_module: Holds the model.
        annotated: The annotated forward graph.
        vocabulary: The operations in it.
        at: Where relevance is asked for, if not at the inputs.
        values: The inputs.
        explained: The target and the seed.
    """
    graph = copy.deepcopy(annotated)
    program = Program(graph_module, vocabulary, Preset("balance"), at=at)
    program.graph_module = fx.GraphModule(graph_module, graph)
    program.properties |= emit_relevance.needs
    emit_relevance(program)
    graph = program.graph
    output = graph.output_node()
    at_inputs: Any = output.args[0]
    flows = list(program.flows.items())
    order = {node: index for index, node in enumerate(graph.nodes)}

    def total(relevances: Sequence[Relevance]) -> fx.Node:
        factors = tuple(relevance.factor for relevance in relevances)
        # At once, so that no step's tensors outlive it.
        with graph.inserting_after(max(factors, key=order.__getitem__)):
            return graph.call_function(total_of, factors)

    sums = [(total(flow.received), total(flow.handed_on)) for _, flow in flows]
    with graph.inserting_before(output):
        received = graph.call_function(total_of, at_inputs if isinstance(at_inputs, tuple) else (at_inputs,))
    first = next(node for node in graph.nodes if node.target is initial_relevance)
    output.args = ((first, received, tuple(sums)),)
    program.graph_module.recompile()
    with torch.no_grad():
        start, end, per_node = program.graph_module(*values, *explained)
    nodes = []
    for (node, _), (got, gave) in zip(flows, per_node, strict=True):
        annotated_with, operation = annotation(node), vocabulary.operation(node)
        assert annotated_with is not None and operation is not None
        nodes.append(
            NodeBalance(node.name, operation.name, module_path(node), str(annotated_with.rule), float(got), float(gave))
        )
    return Balance(float(total_of(start)), float(end), tuple(nodes))


def total_of(*relevances: Tensor) -> Tensor:
    """The sum of everything, in double precision."""
    return torch.stack([relevance.double().sum() for relevance in relevances]).sum()
