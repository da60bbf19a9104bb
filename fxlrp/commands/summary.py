"""The results of ``fxlrp explain`` as a table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from fxlrp.balance import Balance
from fxlrp.command_line import in_short

_KEPT = 3


@dataclass(frozen=True)
class Result:
    """What became of one input.

    Args:
        name: The file, or the text.
        problem: Why it could not be explained; None if it was.
        index: The explained class.
        class_name: Its name, or its index.
        score: The output for it.
        at_input: The sum of the relevance of the input.
        balance: Where relevance was absorbed or created; None if this was not asked for.
        written: The file of the picture.
    """

    name: str
    problem: str | None = None
    index: int | None = None
    class_name: str = ""
    score: float = float("nan")
    at_input: float = float("nan")
    balance: Balance | None = None
    written: Path | None = None

    @property
    def stayed(self) -> str:
        """The operations that kept most relevance, or created it where the number is negative."""
        if self.balance is None:
            return ""
        least = 0.005 * abs(self.balance.explained)
        kept = {name: -created for name, created in self.balance.by_operation().items() if abs(created) > least}
        return ", ".join(f"{value:.3g} {name}" for name, value in list(kept.items())[:_KEPT])


def table(results: Sequence[Result], *, with_balance: bool) -> str:
    """The results as a table, with a line about its columns."""
    headers = ["input", "class", "score", "at the input"]
    rows = [[in_short(each.name), each.class_name, f"{each.score:.4g}", f"{each.at_input:.4g}"] for each in results]
    if with_balance:
        headers.append("stayed at")
        rows = [[*row, each.stayed] for row, each in zip(rows, results, strict=True)]
    if not rows:
        return ""
    text = tabulate(rows, headers=headers, disable_numparse=True)
    note = "stayed at: what operations absorbed by biases and stabilizers, or created (negative)\n" * with_balance
    return f"\n{text}\n\n{note}".rstrip("\n")


def write(path: Path, results: Sequence[Result]) -> None:
    """Write all results as CSV."""
    # Names of files that are not text in UTF-8 keep their bytes.
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.writer(file)
        rows.writerow(("input", "class", "index", "score", "at the input", "stayed at", "written", "problem"))
        for each in results:
            numbers = ("", "", "") if each.problem else (each.index, each.score, each.at_input)
            rows.writerow((each.name, each.class_name, *numbers, each.stayed, each.written or "", each.problem or ""))
