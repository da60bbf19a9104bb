"""The calls of modules as groups of nodes, and which of them are open at first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TypeAlias

from torch import fx

from fxlrp.graph_page.data import Group
from fxlrp.provenance import ModuleCall, module_calls

# The first view shows at most so many boxes, which a window shows in a readable size.
FIRST_VIEW = 24

_Calls: TypeAlias = tuple[ModuleCall, ...]


@dataclass(frozen=True)
class Grouping:
    """The groups of a graph.

    Args:
        groups: The groups; each follows the group around it.
        of_node: The innermost group of each node; None outside of all modules.
        labels: The name of the module below its group, for nodes that are the only operation of their module.
    """

    groups: tuple[Group, ...]
    of_node: Mapping[fx.Node, Group | None]
    labels: Mapping[fx.Node, str]


def grouping(nodes: Sequence[fx.Node], aside: Set[fx.Node]) -> Grouping:
    """Group nodes by the calls of modules that created them.

    A module with a single operation is not a group: the operation bears its name. A module in which there is nothing
    but another one is a single group with it.

    Args:
        nodes: The nodes, in order of execution.
        aside: The nodes that do not make a module a group, such as sizes.
    """
    calls = {node: _below_model(node) for node in nodes}
    inside = Counter(prefix for node in nodes for prefix in _prefixes(calls[node]))
    operations = Counter(prefix for node in nodes if node not in aside for prefix in _prefixes(calls[node]))
    groups: dict[_Calls, Group] = {}
    members: dict[str, int] = {}
    numbers: Counter[tuple[str | None, str]] = Counter()
    of_node: dict[fx.Node, Group | None] = {}
    for node in nodes:
        around: Group | None = None
        for prefix in _prefixes(calls[node]):
            is_alone = around is not None and members[around.id] == inside[prefix]
            if prefix not in groups and operations[prefix] > 1 and not is_alone:
                # The space keeps it apart from the names of nodes.
                made = _group(f"group {len(groups)}", prefix[-1], around, numbers)
                groups[prefix], members[made.id] = made, inside[prefix]
            around = groups.get(prefix, around)
        of_node[node] = around
    labels = {
        node: _relative(calls[node][-1].path, of_node[node])
        for node in nodes
        if calls[node] and operations[calls[node]] == 1 and node not in aside
    }
    opened = _open_at_first(tuple(groups.values()), [of_node[node] for node in nodes if node not in aside])
    return Grouping(tuple(replace(each, is_open=each.id in opened) for each in groups.values()), of_node, labels)


def _below_model(node: fx.Node) -> _Calls:
    return tuple(call for call in module_calls(node) if call.path)


def _prefixes(calls: _Calls) -> list[_Calls]:
    return [calls[: length + 1] for length in range(len(calls))]


def _group(name: str, call: ModuleCall, around: Group | None, numbers: Counter[tuple[str | None, str]]) -> Group:
    parent = around.id if around else None
    numbers[parent, call.path] += 1
    number = numbers[parent, call.path]
    label = _relative(call.path, around) + (f" (call {number})" if number > 1 else "")
    return Group(name, label, call.path, call.cls.__name__, parent, is_open=False)


def _relative(path: str, around: Group | None) -> str:
    """The path below a group, or with its last part if that is a number: ``layer1.0``.

    A module may also be called from outside of the module that has it as a child.
    """
    if around is None or not path.startswith(f"{around.path}."):
        return path
    below = path.removeprefix(f"{around.path}.")
    return f"{around.path.rpartition('.')[2]}.{below}" if below[0].isdigit() else below


def _open_at_first(groups: Sequence[Group], places: Sequence[Group | None]) -> frozenset[str]:
    """Open the groups level by level, as long as no more than :data:`FIRST_VIEW` boxes are visible."""
    opened: frozenset[str] = frozenset()
    level = {each.id for each in groups if each.parent is None}
    while level and _visible(groups, places, opened | level) <= FIRST_VIEW:
        opened |= level
        level = {each.id for each in groups if each.parent in level}
    return opened


def _visible(groups: Sequence[Group], places: Sequence[Group | None], opened: frozenset[str]) -> int:
    """How many nodes and closed groups are visible. Only groups inside open ones are opened."""
    nodes = sum(place is None or place.id in opened for place in places)
    closed = sum(each.id not in opened and (each.parent is None or each.parent in opened) for each in groups)
    return nodes + closed
