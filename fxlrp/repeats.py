"""Find repeated parts of a graph, such as the blocks of a transformer and their relevance steps."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

from torch import fx

# Shorter parts are not worth a function of their own.
_SHORTEST = 8
# How many distances between equal runs of nodes are tried.
_DISTANCES = 4


@dataclass(frozen=True)
class Part:
    """Consecutive nodes, and the nodes outside that they read.

    Args:
        nodes: The nodes, in order.
        views: Nodes outside that are computed again inside, in order.
        inputs: The other nodes outside that are read, in the order of the first use.
        form: What is computed: equal for parts that differ only in their inputs.
    """

    nodes: tuple[fx.Node, ...]
    views: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    form: Hashable

    @property
    def outputs(self) -> tuple[int, ...]:
        """The positions of the nodes that others read."""
        inside = set(self.nodes)
        return tuple(index for index, node in enumerate(self.nodes) if not inside.issuperset(node.users))


@dataclass(frozen=True)
class Finder:
    """Finds repeated parts.

    Args:
        key: What a node computes, without its operands.
        is_view: Whether a node shares memory with its operand, so that a part computes it again rather than read it.
        fits: Whether a part may be taken out.
    """

    key: Callable[[fx.Node], Hashable]
    is_view: Callable[[fx.Node], bool]
    fits: Callable[[Part], bool]

    def groups(self, nodes: Sequence[fx.Node]) -> Iterator[list[Part]]:
        """Yield groups of equal parts of a sequence of nodes."""
        found = max(_stretches(list(map(self.key, nodes))), key=lambda each: each[1] - each[0] - each[2], default=None)
        if found is None:
            return
        start, stop, size = found
        first = min(range(start, min(start + size, stop - 2 * size + 1)), key=lambda at: _interface(nodes[at:], size))
        by_form = defaultdict(list)
        for at in range(first, stop - size + 1, size):
            part = self.part(nodes[at : at + size])
            if self.fits(part):
                by_form[part.form].append(part)
        yield from (group for group in by_form.values() if len(group) > 1)
        yield from self.groups(nodes[:start])
        yield from self.groups(nodes[stop:])

    def part(self, nodes: Sequence[fx.Node]) -> Part:
        """Return the part that consists of nodes."""
        own, views, inputs = set(nodes), dict[fx.Node, None](), dict[fx.Node, None]()

        def visit(node: fx.Node) -> None:
            for each in _read(node):
                if each in own or each in views:
                    continue
                if self.is_view(each):
                    visit(each)
                    views[each] = None
                else:
                    inputs[each] = None

        for node in nodes:
            visit(node)
        inside = {node: index for index, node in enumerate((*inputs, *views, *nodes))}
        form = tuple((self.key(node), *map(inside.__getitem__, _read(node))) for node in (*views, *nodes))
        return Part(tuple(nodes), tuple(views), tuple(inputs), (len(inputs), len(views), form))


def _stretches(keys: list[Hashable]) -> Iterator[tuple[int, int, int]]:
    """The start, the end and the period of stretches that repeat themselves."""
    last: dict[Hashable, int] = {}
    distances: Counter[int] = Counter()
    for index in range(len(keys) - _SHORTEST + 1):
        run = tuple(keys[index : index + _SHORTEST])
        if run in last:
            distance = index - last[run]
            # Several short parts are one that is long enough.
            distances[distance * math.ceil(_SHORTEST / distance)] += 1
        last[run] = index
    for distance, _ in distances.most_common(_DISTANCES):
        start = 0
        for index in range(len(keys) - distance + 1):
            if index == len(keys) - distance or keys[index] != keys[index + distance]:
                if index - start >= distance:
                    yield start, index + distance, distance
                start = index + 1


def _interface(nodes: Sequence[fx.Node], size: int) -> int:
    """How many values the second of the first parts of a size reads and returns."""
    inside = set(nodes[size : 2 * size])
    read = {each for node in inside for each in node.all_input_nodes} - inside
    return len(read) + sum(not inside.issuperset(node.users) for node in inside)


def _read(node: fx.Node) -> list[fx.Node]:
    """The nodes that a node reads, in order and as often as it reads them."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return found
