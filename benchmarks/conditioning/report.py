"""The table of the results, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.conditioning.measure import GOAL, NETWORKS, PRESETS, Conditioning
from benchmarks.pages import between

BEGIN, END = "<!-- the table begins -->", "<!-- the table ends -->"
DEFAULT = "default"
HEADERS = ("network", "preset", "float32", "bfloat16", "cosine", "total", "magnitude")


def ordered(found: Sequence[Conditioning]) -> list[Conditioning]:
    """The results by network and preset, in the order in which both are declared; others last."""

    def position(names: Sequence[str], name: str) -> int:
        return names.index(name) if name in names else len(names)

    return sorted(found, key=lambda each: (position(NETWORKS, each.network), position(tuple(PRESETS), each.preset)))


def table(found: Sequence[Conditioning]) -> str:
    """A row for each network and preset."""
    rows = [HEADERS, ("---", "---", *["---:"] * 5)]
    for each in ordered(found):
        numbers = (f"{each.single:.1e}", f"{each.half:.1e}", f"{each.cosine:.3f}", f"{each.total:.3g}")
        rows.append((each.network, each.preset, *numbers, f"{each.magnitude:.3g}"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def with_table(page: str, found: Sequence[Conditioning]) -> str:
    """The page with the table in place of the one between its marks.

    Raises:
        InputError: The page does not have the marks.
    """
    return between(page, BEGIN, END, table(found))


def missed(found: Sequence[Conditioning]) -> list[Conditioning]:
    """The results of the default preset that miss the goal."""
    return [each for each in ordered(found) if each.preset == DEFAULT and not each.single < GOAL]
