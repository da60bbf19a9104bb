"""What a page shows: groups, nodes and edges. The page reads these fields as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Kind(str, Enum):
    """The kinds of nodes."""

    INPUT = "input"
    OPERATION = "operation"
    OUTPUT = "output"


@dataclass(frozen=True)
class RuleEntry:
    """A rule in the legend.

    Args:
        rule: The rule with its parameters.
        nodes: How many nodes have it.
        color: The number of its color; -1 is grey.
    """

    rule: str
    nodes: int
    color: int


@dataclass(frozen=True)
class Group:
    """A call of a module, which opens and closes. A module that is called twice has two groups.

    Args:
        id: Its identifier.
        label: Its path relative to the group around it, with a number from the second call on.
        path: The path of the module.
        module: The class of the module.
        parent: The identifier of the group around it, if there is one.
        is_open: Whether it is open at first.
    """

    id: str
    label: str
    path: str
    module: str
    parent: str | None
    is_open: bool


@dataclass(frozen=True)
class Balance:
    """What a node received and passed on, summed over all elements and samples.

    Args:
        received: The relevance of its value.
        passed_on: The relevance that it passed to its operands; None where the explanation ends.
        absorbed: The difference; negative where the node created relevance.
        by_bias: The part of it that the bias absorbed, where the formula of the rule determines it.
        by_stabilizer: The part that the stabilizer absorbed, likewise.
        at_zeros: The part that arrived at elements of value zero, likewise.
    """

    received: float
    passed_on: float | None
    absorbed: float | None
    by_bias: float | None
    by_stabilizer: float | None
    at_zeros: float | None


@dataclass(frozen=True)
class Node:
    """An input, an operation or the explained output.

    Args:
        id: The name of the node in the annotated graph.
        kind: What it is.
        label: A short name: that of its module where it is the only operation there, else its operation.
        operation: Its canonical operation.
        group: The identifier of the group in which it is; None outside of all modules.
        path: The path of the innermost module that created it.
        module: The class of this module.
        rule: Its rule; None if it has none.
        why: Why it has this rule, or receives no relevance.
        source: The user's source line.
        shape: The shape of its value, if it is known.
        parameters: The parameters that it reads, each with its shape.
        is_reached: Whether relevance reaches it.
        is_aside: Whether it is a size or a constant, or nothing in the graph reads it. The page hides such nodes first.
        balance: Its relevance, after a call.
    """

    id: str
    kind: Kind
    label: str
    operation: str
    group: str | None
    path: str
    module: str
    rule: str | None
    why: str
    source: str
    shape: str
    parameters: tuple[str, ...]
    is_reached: bool
    is_aside: bool
    balance: Balance | None


@dataclass(frozen=True)
class Edge:
    """A value that a node reads.

    Args:
        source: The node of the value.
        target: The node that reads it.
        position: The position among the operands; None for other arguments.
        carries: Whether relevance flows here, from the target to the source.
        relevance: How much, after a call.
    """

    source: str
    target: str
    position: int | None
    carries: bool
    relevance: float | None


@dataclass(frozen=True)
class Graph:
    """The annotated graph, as a page shows it.

    Args:
        title: The class of the model.
        rules: The rules, the most frequent first.
        groups: The groups; each follows the group around it.
        nodes: The nodes, in order of execution.
        edges: The edges.
        explained: The initial relevance, summed over all elements and samples; None without a call.
        at_inputs: The relevance that arrived at the inputs, or at the places of ``at=``.
        at: The names of these places; empty for the inputs.
    """

    title: str
    rules: tuple[RuleEntry, ...]
    groups: tuple[Group, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    explained: float | None = None
    at_inputs: float | None = None
    at: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The graph as JSON that may stand in a script element. NaN and infinity are strings."""
        text = json.dumps(_plain(asdict(self)), allow_nan=False, separators=(",", ":"))
        # No "</script>" or "<!--" ends or hides the element, whatever names and source lines contain.
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    """The value with strings in place of numbers that JSON does not have; a browser reads them as numbers."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
