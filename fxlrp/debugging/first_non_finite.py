"""Where an explanation first is not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from fxlrp.debugging.node_location import NodeLocation, renamed_place
from fxlrp.debugging.non_finite import NotFinite
from fxlrp.debugging.step_by_step import NodeFlow, StepByStep
from fxlrp.printing.table import constants_among

VALUE = "its value"
SEED = "the seed"
RECEIVED = "the relevance that it receives"
HANDED_ON = "the relevance that it hands on"


@dataclass(frozen=True)
class Break:
    """Where NaN or infinity first appears.

    Args:
        location: The node.
        what: What is not finite there: its value, the relevance that it receives, or what it hands on.
        found: How many numbers of that are not finite.
        value: How many numbers of its forward value are not finite.
        reads: What it reads that is not finite either: operands and parameters by name.
    """

    location: NodeLocation
    what: str
    found: NotFinite
    value: NotFinite
    reads: Mapping[str, NotFinite]

    @property
    def node(self) -> str:
        """The node's name."""
        return self.location.node

    @property
    def place(self) -> NodeLocation:
        """:attr:`location`, under its name of version 0.1."""
        return renamed_place(self.location)

    @property
    def module(self) -> str:
        """The path of its module."""
        return self.location.module

    @property
    def source(self) -> str:
        """The user's source line, as ``file:line: code``."""
        return self.location.source

    def __str__(self) -> str:
        """A line for the node, and one for what there is around."""
        read = ", ".join(f"{name} ({found})" for name, found in self.reads.items())
        return (
            f"first not finite: {self.what} ({self.found}): {self.location}\n"
            f"its value: {self.value or 'finite'}; not finite of what it reads: {read or 'nothing'}"
        )


def first_break(
    steps: StepByStep,
    flows: Sequence[NodeFlow],
    values: Mapping[fx.Node, NotFinite],
    relevances: Mapping[fx.Node, NotFinite],
) -> Break | None:
    """Where NaN or infinity comes from; None if all relevance is finite.

    An infinity in a forward value that no relevance shows, as attention masks have them, does not count. If the
    explained output itself is not finite, its value is followed back to the first one that is not.

    Args:
        steps: The explanation.
        flows: Its steps that matter, from the output back.
        values: The counts of all forward values.
        relevances: The counts of all relevance.
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
        for nodes, what in ((flow.received, RECEIVED), (flow.handed_on, HANDED_ON)):
            bad = next((relevances[each] for each in nodes if relevances[each]), None)
            if bad is not None:
                return found_at(flow.node, what, bad)
    for value, relevance in steps.ends:
        if relevances[relevance]:
            return found_at(value, RECEIVED, relevances[relevance])
    return None


def _origin(steps: StepByStep, values: Mapping[fx.Node, NotFinite]) -> fx.Node:
    """The value from which the explained output has its NaN or infinity; that of a node, not of a parameter."""
    graph = steps.program.graph
    order = {node: index for index, node in enumerate(graph.nodes)}
    constants = constants_among(list(graph.nodes))
    current = steps.explained
    while True:
        sources = [each for each in current.all_input_nodes if values.get(each) and each not in constants]
        if not sources:
            return current
        # NaN comes of an error, infinity may also be a mask's.
        current = min(sources, key=lambda each: (not values[each].nan, order[each]))
