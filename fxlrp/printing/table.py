"""The annotated graph as a table: every node, its rule, and the reason for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tabulate import tabulate
from torch import fx

from fxlrp.printing.html import Table, html_table
from fxlrp.program import REASON, annotation, receivers
from fxlrp.provenance import module_path, operation_name
from fxlrp.vocabulary.lookup import Vocabulary

HEADERS = ("node", "operation", "module", "shape", "rule", "why", "relevance")


def render(
    nodes: Sequence[fx.Node],
    vocabulary: Vocabulary,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    constants: bool = False,
) -> Table:
    """Return the table of ``nodes``, and the numbers of operations and rules.

    Args:
        nodes: The forward nodes, in order of execution.
        vocabulary: The canonical operations.
        shapes: The known shapes of their values, by name.
        constants: Whether to include parameters, and values that are computed only from parameters.
    """
    hidden = frozenset() if constants else constants_among(nodes)
    reached = _reached(nodes, vocabulary)
    shown = [node for node in nodes if node not in hidden]
    rows = [_row(node, vocabulary, shapes, node in reached) for node in shown]
    table = tabulate(rows, headers=HEADERS, disable_numparse=True, maxcolwidths=None)
    notes = _summary(shown, vocabulary, len(hidden))
    faint = [index for index, row in enumerate(rows) if row[-1] == "no"]
    return Table(f"{table}\n\n{notes}", html_table(HEADERS, rows, notes, faint=faint))


def constants_among(nodes: Sequence[fx.Node]) -> frozenset[fx.Node]:
    """Parameters, and values that are computed only from parameters."""
    found: set[fx.Node] = set()
    for node in nodes:
        if node.op == "get_attr" or (node.op == "call_function" and set(node.all_input_nodes) <= found):
            found.add(node)
    return frozenset(found)


def _reached(nodes: Sequence[fx.Node], vocabulary: Vocabulary) -> frozenset[fx.Node]:
    """The nodes whose value receives relevance."""
    received = {source for node in nodes for source in receivers(node, vocabulary)}
    return frozenset(received | {node for node in nodes if annotation(node)})


def _row(
    node: fx.Node, vocabulary: Vocabulary, shapes: Mapping[str, tuple[int, ...]], reached: bool
) -> tuple[str, ...]:
    annotated = annotation(node)
    shape = "x".join(str(size) for size in shapes[node.name]) if node.name in shapes else ""
    rule = str(annotated.rule) if annotated else ""
    if annotated is not None:
        why = ": ".join(part for part in (annotated.origin, annotated.reason) if part)
    else:
        unreached = "no rule passes relevance to it" if node.op == "placeholder" and not reached else ""
        why = str(node.meta.get(REASON, "")) or unreached
    return (
        node.name,
        operation_of(node, vocabulary),
        module_path(node),
        shape,
        rule,
        why,
        "yes" if reached else "no",
    )


def operation_of(node: fx.Node, vocabulary: Vocabulary) -> str:
    """The operation of a node, as in the table."""
    if node.op == "placeholder":
        return "input"
    if node.op == "get_attr":
        return "parameter"
    operation = vocabulary.operation(node)
    return operation.name if operation else operation_name(node)


def _summary(shown: Sequence[fx.Node], vocabulary: Vocabulary, hidden: int) -> str:
    operations = Counter(operation_of(node, vocabulary) for node in shown if node.op == "call_function")
    rules = Counter(str(annotated.rule) for node in shown if (annotated := annotation(node)))
    text = f"{operations.total()} operations: {_counts(operations)}\n{rules.total()} rules: {_counts(rules)}"
    return (
        f"{text}\n{hidden} constants (parameters and values computed from them) are shown by table(constants=True)"
        if hidden
        else text
    )


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.most_common())
