"""The annotated graph as a table: every node, its rule, and the reason for it."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence

from tabulate import tabulate
from torch import fx

from fxlrp.printing.html import Table, html_table
from fxlrp.printing.rows import COLUMNS, Rows, View, operation_of, rows_of
from fxlrp.printing.widths import shortened
from fxlrp.program import annotation
from fxlrp.vocabulary.lookup import Vocabulary

# What is shortened first, and where the end tells more than the start, which many rows share.
_LONG = ("node", "module", "rule", "why")
_KEEP_THE_END = ("node", "module")


def render(
    nodes: Sequence[fx.Node],
    vocabulary: Vocabulary,
    shapes: Mapping[str, tuple[int, ...]],
    view: View | None = None,
) -> Table:
    """Return the table of ``nodes``, and the numbers of operations and rules.

    Args:
        nodes: The forward nodes, in order of execution.
        vocabulary: The canonical operations.
        shapes: The known shapes of their values, by name.
        view: The part that is shown; None for all but constants.

    Raises:
        InputError: A name that is hidden is unknown, no column is left, or the columns need more than the width.
    """
    view = view or View()
    found = rows_of(nodes, vocabulary, shapes, view)
    headers = [COLUMNS[index] for index in view.columns]
    cells = [[row.shown[index] for index in view.columns] for row in found.rows]
    lines = summary(found, vocabulary, view)
    # HTML wraps lines itself, whatever the width of the text.
    faint = [index for index, row in enumerate(found.rows) if row.cells[COLUMNS.index("relevance")] == "no"]
    html = html_table(headers, cells, "\n".join(lines), faint=faint)
    if view.width is not None:
        cells = shortened(cells, headers, view.width, first=_LONG, keep_the_end=_KEEP_THE_END)
        lines = [each for line in lines for each in textwrap.wrap(line, view.width, subsequent_indent="  ")]
    table = tabulate(cells, headers=headers, disable_numparse=True, maxcolwidths=None)
    return Table("\n".join([table, "", *lines]), html)


def summary(found: Rows, vocabulary: Vocabulary, view: View) -> list[str]:
    """The lines below a table: the numbers of operations and rules, and what has no row."""
    operations = Counter(operation_of(node, vocabulary) for node in found.nodes if node.op == "call_function")
    rules = Counter(str(annotated.rule) for node in found.nodes if (annotated := annotation(node)))
    lines = [
        f"{operations.total()} operations{_counts(operations)}",
        f"{rules.total()} rules{_counts(rules)}",
    ]
    if found.folded:
        lines.append(
            f"{found.folded} shape operations are counted in the rows of the values that they move (+ N shape), and "
            "shown by table(fold=False)"
        )
    if found.sizes:
        lines.append(f"{found.sizes} sizes and values computed from them are shown by table(fold=False)")
    if found.hidden:
        lines.append(f"{found.hidden} rows are hidden: {', '.join(each for each in view.hide if each not in COLUMNS)}")
    if found.constants:
        lines.append(
            f"{found.constants} constants (parameters and values computed from them) are shown by table(constants=True)"
        )
    return lines


def _counts(counter: Counter[str]) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in counter.most_common())
    return f": {counts}" if counts else ""
