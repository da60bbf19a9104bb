"""An explanation without optimizations, run node by node with an observer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxlrp.generated_code import forgotten_with_code
from fxlrp.operation import Operation
from fxlrp.passes.emit_relevance import emit_relevance
from fxlrp.passes.infer_dependence import infer_dependence
from fxlrp.passes.infer_finite import infer_finite
from fxlrp.program import Annotation, Flow, Options, Program, annotation, nodes_by_name, operation_under
from fxlrp.shapes import infer_values
from fxlrp.vocabulary.lookup import Vocabulary


@dataclass(frozen=True)
class NodeFlow:
    """An annotated forward node, and the relevance nodes of its step.

    Args:
        node: The forward node.
        operation: Its canonical operation.
        annotation: Its rule.
        received: The relevance of its value; one node for each of its results that received any.
        passed_on: The relevance that it passes to each operand that receives any.
        results: The positions of these results; None for that of an operation with one result.
    """

    node: fx.Node
    operation: Operation
    annotation: Annotation
    received: tuple[fx.Node, ...]
    passed_on: tuple[fx.Node, ...]
    results: tuple[int | None, ...]

    @property
    def added(self) -> list[Any]:
        """The arguments that are added to what is linear in the operands that receive relevance, or None."""
        operation = operation_under(self.operation, self.annotation.rule)
        operands = enumerate(operation.operands_of(self.node))
        others = [operand for position, operand in operands if position not in self.annotation.carries]
        shifts = () if operation.shifts is None else operation.shifts(operation.arguments(self.node))
        return [*shifts, *others]


@dataclass(frozen=True)
class StepByStep:
    """The forward and relevance program of an annotated graph, in which each node has its own step.

    Args:
        program: The program; its steps are not merged, and none works in place.
        start: The initial relevance.
        explained: The output that is explained.
        flows: The steps, from the output back.
        ends: The values whose relevance is requested and that receive any, with that relevance.
    """

    program: Program
    start: fx.Node
    explained: fx.Node
    flows: tuple[NodeFlow, ...]
    ends: tuple[tuple[fx.Node, fx.Node], ...]

    @staticmethod
    def of(graph_module: fx.GraphModule, annotated: fx.Graph, vocabulary: Vocabulary, options: Options) -> StepByStep:
        """Emit the steps of a copy of an annotated graph.

        Args:
            graph_module: The module that contains the model.
            annotated: The annotated forward graph.
            vocabulary: The canonical operations.
            options: The options of the compilation.
        """
        copied = forgotten_with_code(fx.GraphModule(graph_module, copy.deepcopy(annotated)))
        program = Program(copied, vocabulary, options)
        program.properties |= emit_relevance.needs | infer_finite.needs | infer_dependence.needs
        if options.examples:
            inferred = infer_values(graph_module, annotated, options.examples)
            program.facts.values, program.facts.sizes = inferred.values, inferred.sizes
        infer_dependence(program)
        infer_finite(program)
        emit_relevance(program)
        interface, nodes = program.emitted.interface, nodes_by_name(program.graph)
        flows = tuple(_node_flow(program, node, flow) for node, flow in program.emitted.flows.items())
        ends = tuple(
            (nodes[result.value], nodes[result.relevance])
            for result in interface.results
            if result.is_reached and result.relevance is not None
        )
        return StepByStep(program, nodes[interface.start], nodes[interface.explained], flows, ends)

    def run(self, values: Sequence[Any], controls: Mapping[str, Any], observe: Callable[[fx.Node, Any], None]) -> None:
        """Compute every node and pass its value to ``observe``; free values that are not read again.

        Args:
            values: The inputs of the model, in order.
            controls: The target and the seed, by name.
            observe: Called with each node and its value.
        """
        with torch.no_grad():
            arguments = self.program.emitted.interface.arguments(values, controls)
            _Observed(self.program.graph_module, observe).run(*arguments, enable_io_processing=False)


def _node_flow(program: Program, node: fx.Node, flow: Flow) -> NodeFlow:
    annotated, operation = annotation(node), program.vocabulary.operation(node)
    assert annotated is not None and operation is not None
    received, passed_on = (tuple(each.factor for each in side) for side in (flow.received, flow.passed_on))
    return NodeFlow(node, operation, annotated, received, passed_on, flow.results)


class _Observed(fx.Interpreter):
    """Runs a graph and passes every value to an observer."""

    def __init__(self, graph_module: fx.GraphModule, observe: Callable[[fx.Node, Any], None]) -> None:
        super().__init__(graph_module)
        self._observe = observe
        # Keep errors about inputs and targets as they read without an interpreter.
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self._observe(n, value)
        return value


def last_uses(nodes: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """For each node, the nodes that no later one reads."""
    last = {source: node for node in nodes for source in (node, *node.all_input_nodes)}
    found: dict[fx.Node, list[fx.Node]] = {node: [] for node in nodes}
    for source, node in last.items():
        found[node].append(source)
    return found
