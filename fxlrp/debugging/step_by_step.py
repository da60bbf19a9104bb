"""An explanation without optimizations, run node by node under the eyes of an observer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxlrp.operation import Operation, Vocabulary
from fxlrp.passes.emit_relevance import emit_relevance
from fxlrp.program import Annotation, Flow, Program, annotation, receivers
from fxlrp.relevance.initial_relevance import initial_relevance
from fxlrp.rules.presets import Preset


@dataclass(frozen=True)
class NodeFlow:
    """An annotated forward node, and the relevance nodes of its step."""

    node: fx.Node
    operation: Operation
    annotation: Annotation
    received: tuple[fx.Node, ...]
    handed_on: tuple[fx.Node, ...]


@dataclass(frozen=True)
class StepByStep:
    """The forward and relevance program of an annotated graph, in which every step stands by itself.

    Args:
        program: The program; no two of its steps are merged, and nothing in it works in place.
        start: The initial relevance.
        explained: The output that is explained.
        flows: The steps, from the output back.
        ends: The values whose relevance is asked for and that receive any, with that relevance.
    """

    program: Program
    start: fx.Node
    explained: fx.Node
    flows: tuple[NodeFlow, ...]
    ends: tuple[tuple[fx.Node, fx.Node], ...]

    @staticmethod
    def of(graph_module: fx.GraphModule, annotated: fx.Graph, vocabulary: Vocabulary, at: str | None) -> StepByStep:
        """Emit the steps of an annotated graph, of which a copy is made.

        Args:
            graph_module: Holds the model.
            annotated: The annotated forward graph.
            vocabulary: The operations in it.
            at: Where relevance is asked for, if not at the inputs.
        """
        program = Program(
            fx.GraphModule(graph_module, copy.deepcopy(annotated)), vocabulary, Preset("step by step"), at=at
        )
        program.properties |= emit_relevance.needs
        emit_relevance(program)
        start = next(node for node in program.graph.nodes if node.target is initial_relevance)
        returned: Any = program.graph.output_node().args[0]
        relevances = returned if isinstance(returned, tuple) else (returned,)
        explained = start.args[0]
        assert isinstance(explained, fx.Node)
        flows = tuple(_node_flow(program, node, flow) for node, flow in program.flows.items())
        reached = {explained, *(source for flow in flows for source in receivers(flow.node, vocabulary))}
        ends = tuple(end for end in zip(program.ends, relevances, strict=True) if end[0] in reached)
        return StepByStep(program, start, explained, flows, ends)

    def run(self, values: Sequence[Any], explained: Sequence[Any], observe: Callable[[fx.Node, Any], None]) -> None:
        """Compute every node, and show its value to ``observe`` at once; a value that nobody reads again is freed.

        Args:
            values: The inputs.
            explained: The target and the seed.
            observe: Called with each node and its value.
        """
        with torch.no_grad():
            _Observed(self.program.graph_module, observe).run(*values, *explained, enable_io_processing=False)


def _node_flow(program: Program, node: fx.Node, flow: Flow) -> NodeFlow:
    annotated, operation = annotation(node), program.vocabulary.operation(node)
    assert annotated is not None and operation is not None
    received, handed_on = (tuple(each.factor for each in side) for side in (flow.received, flow.handed_on))
    return NodeFlow(node, operation, annotated, received, handed_on)


class _Observed(fx.Interpreter):
    """Runs a graph and shows every value to an observer."""

    def __init__(self, graph_module: fx.GraphModule, observe: Callable[[fx.Node, Any], None]) -> None:
        super().__init__(graph_module)
        self._observe = observe
        # Errors about inputs and targets read as they do without an interpreter.
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self._observe(n, value)
        return value
