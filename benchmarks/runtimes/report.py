"""The table of the results, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.pages import between
from benchmarks.runtimes.measure import NETWORKS, RUNTIMES, Measured

BEGIN, END = "<!-- the table of runtimes begins -->", "<!-- the table of runtimes ends -->"
HEADERS = ("model", "runtime", "batch", "error", "of eager", "milliseconds", "of eager", "of the model")


def ordered(found: Sequence[Measured]) -> list[Measured]:
    """The results by model, runtime and batch size, in the order in which they are declared; others last."""

    def position(names: Sequence[str], name: str) -> int:
        return names.index(name) if name in names else len(names)

    return sorted(
        found, key=lambda each: (position(NETWORKS, each.model), position(RUNTIMES, each.runtime), each.batch)
    )


def table(found: Sequence[Measured]) -> str:
    """A row for each model, runtime and batch size."""
    rows = [HEADERS, ("---", "---", *["---:"] * 6)]
    for each in ordered(found):
        numbers = (f"{each.error:.1e}", f"{each.eager_error:.1e}", f"{1000 * each.seconds:.0f}")
        ratios = (f"{each.seconds / each.eager_seconds:.2f}", f"{each.seconds / each.model_seconds:.1f}")
        rows.append((each.model, each.runtime, str(each.batch), *numbers, *ratios))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def with_table(page: str, found: Sequence[Measured]) -> str:
    """The page with the table in place of the one between its marks.

    Raises:
        InputError: The page does not have the marks.
    """
    return between(page, BEGIN, END, table(found))
