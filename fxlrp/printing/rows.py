"""The rows of the annotated graph: one for each value, with the shape operations that only move it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import fx

from fxlrp.arguments import similar
from fxlrp.errors import InputError
from fxlrp.operation import Family
from fxlrp.program import REASON, annotation, receivers
from fxlrp.provenance import module_path, operation_name
from fxlrp.vocabulary.lookup import Vocabulary
from fxlrp.vocabulary.sizes import sizes_of

COLUMNS = ("node", "operation", "module", "shape", "rule", "why", "relevance")
# Tables with more rows fold shape operations, unless the caller decides.
_LONG = 60


@dataclass(frozen=True)
class View:
    """Which part of the annotated graph a table shows.

    Args:
        only: The nodes to show; None for all.
        named: Those among them that are named one by one, which are never folded.
        relevance: Whether to show only nodes with relevance (True) or only those without (False); None for both.
        hide: The names of columns, and of operations or families whose rows are left out.
        width: The largest number of characters of a line; None for as many as the cells need.
        fold: Whether shape operations are a part of the row whose value they move, and sizes have no rows; None in a
            long table.
        constants: Whether to show parameters, and values that are computed only from parameters.
    """

    only: frozenset[fx.Node] | None = None
    named: frozenset[fx.Node] = frozenset()
    relevance: bool | None = None
    hide: Sequence[str] = ()
    width: int | None = None
    fold: bool | None = None
    constants: bool = False

    @property
    def columns(self) -> tuple[int, ...]:
        """The positions of the columns that are shown."""
        return tuple(index for index, name in enumerate(COLUMNS) if name not in self.hide)

    def check(self, vocabulary: Vocabulary, shown: Collection[str]) -> None:
        """Check the names that are hidden.

        Args:
            vocabulary: The canonical operations.
            shown: The operations of the rows.

        Raises:
            InputError: A name is unknown, or no column is left.
        """
        known = [*COLUMNS, *(family.value for family in Family), *vocabulary.operations, *shown]
        for name in self.hide:
            if name not in known:
                raise InputError(
                    f"hide={name!r} is neither a column ({', '.join(COLUMNS)}) nor an operation or a family of "
                    f"operations{similar(name, known)}"
                )
        if not self.columns:
            raise InputError("hide leaves no column of the table")


@dataclass(frozen=True)
class Row:
    """The row of a node.

    Args:
        node: The node.
        cells: The text of every column.
        folded: The shape operations that follow and only move the value.
    """

    node: fx.Node
    cells: tuple[str, ...]
    folded: tuple[fx.Node, ...] = ()

    @property
    def shown(self) -> tuple[str, ...]:
        """The cells, with the number of folded operations."""
        if not self.folded:
            return self.cells
        count = f" + {len(self.folded)} shape"
        return tuple(
            cell + count if name == "operation" else cell for name, cell in zip(COLUMNS, self.cells, strict=True)
        )


@dataclass(frozen=True)
class Rows:
    """The rows of a table, and what has none.

    Args:
        rows: The rows, in order of execution.
        nodes: The nodes that the rows stand for, with those that are folded.
        constants: How many constants have no row.
        sizes: How many sizes, and values computed from sizes, have no row.
        hidden: How many rows were left out by their operation.
    """

    rows: tuple[Row, ...]
    nodes: tuple[fx.Node, ...]
    constants: int
    sizes: int
    hidden: int

    @property
    def folded(self) -> int:
        """How many shape operations are a part of other rows."""
        return sum(len(row.folded) for row in self.rows)


def rows_of(
    nodes: Sequence[fx.Node], vocabulary: Vocabulary, shapes: Mapping[str, tuple[int, ...]], view: View
) -> Rows:
    """Return the rows of a part of the annotated graph.

    Args:
        nodes: The forward nodes, in order of execution.
        vocabulary: The canonical operations.
        shapes: The known shapes of their values, by name.
        view: The part that is shown.

    Raises:
        InputError: A name that is hidden is unknown, or no column is left.
    """
    view.check(vocabulary, {operation_of(node, vocabulary) for node in nodes})
    reached = nodes_reached(nodes, vocabulary)
    chosen = [node for node in nodes if view.only is None or node in view.only]
    if view.relevance is not None:
        chosen = [node for node in chosen if (node in reached) is view.relevance]
    constants = frozenset() if view.constants else constants_among(nodes) - view.named
    shown = [node for node in chosen if node not in constants]
    visible = [node for node in shown if not _is_hidden(node, vocabulary, view.hide)]
    folding = _Folding(nodes, vocabulary, reached)
    fold = len(visible) > _LONG if view.fold is None else view.fold
    foldable = frozenset(visible) - view.named if fold else frozenset()
    sizes = frozenset(node for node in foldable if folding.is_size(node))
    rows: dict[fx.Node, Row] = {}
    row_of: dict[fx.Node, fx.Node] = {}
    for node in visible:
        if node in sizes:
            continue
        moved = folding.moved(node) if node in foldable else None
        if moved in row_of:
            first = row_of[node] = row_of[moved]
            rows[first] = replace(rows[first], folded=(*rows[first].folded, node))
        else:
            row_of[node] = node
            rows[node] = Row(node, _cells(node, vocabulary, shapes, node in reached))
    return Rows(tuple(rows.values()), tuple(visible), len(chosen) - len(shown), len(sizes), len(shown) - len(visible))


class _Folding:
    """What has no row of its own in a long table: sizes, and shape operations by their default rule."""

    def __init__(self, nodes: Sequence[fx.Node], vocabulary: Vocabulary, reached: frozenset[fx.Node]) -> None:
        self._vocabulary = vocabulary
        self._reached = reached
        self._constants = constants_among(nodes)
        self._sizes = _from_sizes(nodes, vocabulary, self._constants) - reached - self._constants

    def is_size(self, node: fx.Node) -> bool:
        """Whether a node is a size, or computed from sizes and constants alone."""
        return node in self._sizes and REASON not in node.meta

    def moved(self, node: fx.Node) -> fx.Node | None:
        """The value that a shape operation only moves; None for any other node, and where the table has to tell why.

        It has to where a rule was chosen, where an operand was left out, and where relevance ends.
        """
        operation, annotated = self._vocabulary.operation(node), annotation(node)
        if operation is None or not (operation.arranges or operation.is_cast) or REASON in node.meta:
            return None
        if annotated is not None and (annotated.origin, annotated.reason) != ("default", operation.family.value):
            return None
        sources = [each for each in node.all_input_nodes if each not in self._constants and each not in self._sizes]
        if len(sources) != 1 or operation.operands_of(node)[0] is not sources[0]:
            return None
        return sources[0] if (sources[0] in self._reached) is (node in self._reached) else None


def _from_sizes(nodes: Sequence[fx.Node], vocabulary: Vocabulary, constants: frozenset[fx.Node]) -> frozenset[fx.Node]:
    """Sizes, and the values that are computed from sizes and constants alone."""
    found = set(sizes_of(nodes[0].graph, vocabulary)) if nodes else set()
    for node in nodes:
        operation = vocabulary.operation(node)
        ignores = operation is not None and operation.ignores_values
        sources = set(node.all_input_nodes)
        if node.op == "call_function" and (ignores or (sources and sources <= found | constants)):
            found.add(node)
    return frozenset(found)


def _is_hidden(node: fx.Node, vocabulary: Vocabulary, hide: Sequence[str]) -> bool:
    operation = vocabulary.operation(node) if node.op == "call_function" else None
    names = {operation_of(node, vocabulary), operation.family.value if operation else ""}
    return any(name in names for name in hide if name not in COLUMNS)


def constants_among(nodes: Sequence[fx.Node]) -> frozenset[fx.Node]:
    """Parameters, and values that are computed only from parameters."""
    found: set[fx.Node] = set()
    for node in nodes:
        if node.op == "get_attr" or (node.op == "call_function" and set(node.all_input_nodes) <= found):
            found.add(node)
    return frozenset(found)


def nodes_reached(nodes: Sequence[fx.Node], vocabulary: Vocabulary) -> frozenset[fx.Node]:
    """The nodes whose value receives relevance."""
    received = {source for node in nodes for source in receivers(node, vocabulary)}
    return frozenset(received | {node for node in nodes if annotation(node)})


def _cells(
    node: fx.Node, vocabulary: Vocabulary, shapes: Mapping[str, tuple[int, ...]], reached: bool
) -> tuple[str, ...]:
    annotated = annotation(node)
    shape = "x".join(str(size) for size in shapes[node.name]) if node.name in shapes else ""
    rule = str(annotated.rule) if annotated else ""
    why, relevance = reason_of(node, reached), "yes" if reached else "no"
    return node.name, operation_of(node, vocabulary), module_path(node), shape, rule, why, relevance


def reason_of(node: fx.Node, reached: bool) -> str:
    """Why a node has its rule, or an input no relevance."""
    annotated = annotation(node)
    if annotated is not None:
        return ": ".join(part for part in (annotated.origin, annotated.reason) if part)
    unreached = "no rule passes relevance to it" if node.op == "placeholder" and not reached else ""
    return str(node.meta.get(REASON, "")) or unreached


def operation_of(node: fx.Node, vocabulary: Vocabulary) -> str:
    """The operation of a node, as in the table."""
    if node.op == "placeholder":
        return "input"
    if node.op == "get_attr":
        return "parameter"
    operation = vocabulary.operation(node)
    return operation.name if operation else operation_name(node)
