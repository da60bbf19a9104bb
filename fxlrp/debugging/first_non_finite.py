"""Find where an explanation first is not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from fxlrp.debugging.node_location import NodeLocation
from fxlrp.debugging.non_finite import NotFinite
from fxlrp.debugging.renamed import renamed
from fxlrp.debugging.step_by_step import NodeFlow, StepByStep
from fxlrp.printing.rows import constants_among

VALUE = "its value"
SEED = "the seed"
RECEIVED = "the relevance that it receives"
PASSED_ON = "the relevance that it passes on"


@dataclass(frozen=True)
class Break:
    """Where NaN or infinity first appears.

    Args:
        location: The node.
        what: What is not finite there: "its value", "the seed", "the relevance that it receives" or "the relevance
            that it passes on".
        found: How many elements of ``what`` are NaN or infinite.
        value: How many elements of the node's forward value are NaN or infinite.
        reads: The operands and parameters of the node that are not finite either, by name.
    """

    location: NodeLocation
    what: str
    found: NotFinite
    value: NotFinite
    reads: Mapping[str, NotFinite]

    @property
    def node(self) -> str:
        """The name of the node."""
        return self.location.node

    @property
    def place(self) -> NodeLocation:
        """:attr:`location`, under its name of version 0.1."""
        return renamed("place", "location", self.location)

    @property
    def module(self) -> str:
        """The path of its module."""
        return self.location.module

    @property
    def source(self) -> str:
        """The user's source line, as ``file:line: code``."""
        return self.location.source

    def __str__(self) -> str:
        """Return a line for the node, and a line for its value and what it reads."""
        read = ", ".join(f"{name} ({found})" for name, found in self.reads.items())
        return (
            f"first not finite: {self.what} ({self.found}): {self.location}\n"
            f"its value: {self.value or 'finite'}; non-finite operands and parameters: {read or 'none'}"
        )


def first_break(
    steps: StepByStep,
    flows: Sequence[NodeFlow],
    values: Mapping[fx.Node, NotFinite],
    relevances: Mapping[fx.Node, NotFinite],
) -> Break | None:
    """Find where NaN or infinity comes from.

    An infinity in a forward value does not count if all relevance is finite: attention masks contain infinities. If
    the explained output itself is not finite, its value is traced back to the first value that is not.

    Args:
        steps: The explanation.
        flows: Its steps that lead to the requested relevance, from the output back.
        values: The counts of all forward values.
        relevances: The counts of all relevance.

    Returns:
        The break; None if all relevance is finite.
    """

    def found_at(node: fx.Node, what: str, found: NotFinite) -> Break:
        reads = {each.name: values[each] for each in node.all_input_nodes if values.get(each)}
        return Break(NodeLocation.of(node, steps.program.vocabulary), what, found, values[node], reads)

    if relevances[steps.start]:
        if not values[steps.explained]:
            return found_at(steps.explained, SEED, relevances[steps.start])
        origin = _origin(steps, values)
        return found_at(origin, VALUE, values[origin])
    for flow in flows:
        for nodes, what in ((flow.received, RECEIVED), (flow.passed_on, PASSED_ON)):
            bad = next((relevances[each] for each in nodes if relevances[each]), None)
            if bad is not None:
                return found_at(flow.node, what, bad)
    for value, relevance in steps.ends:
        if relevances[relevance]:
            return found_at(value, RECEIVED, relevances[relevance])
    return None


def _origin(steps: StepByStep, values: Mapping[fx.Node, NotFinite]) -> fx.Node:
    """Return the node whose value is the source of the NaN or infinity in the explained output."""
    graph = steps.program.graph
    order = {node: index for index, node in enumerate(graph.nodes)}
    constants = constants_among(list(graph.nodes))
    current = steps.explained
    while True:
        sources = [each for each in current.all_input_nodes if values.get(each) and each not in constants]
        if not sources:
            return current
        # NaN is always an error. Infinity may also come from a mask.
        current = min(sources, key=lambda each: (not values[each].nan, order[each]))
