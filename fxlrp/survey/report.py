"""The survey's results as a page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from tabulate import tabulate

from fxlrp.errors import InputError
from fxlrp.survey.measure import Result

HEADERS = ("model", "captured by", "compiled in (s)", "steps", "error", "softmax", "constants", "problem")
_BEGIN, _END = "<!-- survey: begin -->", "<!-- survey: end -->"


def read(path: Path) -> dict[str, Result]:
    """Read the newest result of each model in a file.

    Raises:
        InputError: The file contains something else.
    """
    if not path.exists():
        return {}
    try:
        found = [Result(**json.loads(line)) for line in path.read_text().splitlines()]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} does not contain results of the survey: {error}") from error
    return {result.name: result for result in found}


def line(result: Result) -> str:
    """Return a result as one line."""
    error = "" if result.error is None else f"{result.error:.1e}"
    state = "works" if result.works else "FAILS"
    return (
        f"{state} {result.name} {result.front_end} {result.seconds:.1f} s {error} {_shortened(result.problem)}".rstrip()
    )


def summary(results: Iterable[Result]) -> str:
    """Return how many models of each library work."""
    by_library: dict[str, list[bool]] = {}
    for result in results:
        by_library.setdefault(result.name.partition(":")[0], []).append(result.works)
    return ", ".join(f"{library}: {sum(works)} of {len(works)}" for library, works in by_library.items())


def check_page(path: Path) -> None:
    """Check that a page can contain the tables.

    Raises:
        InputError: The page does not have a pair of markers.
        OSError: The page cannot be read.
    """
    page = path.read_text()
    if page.count(_BEGIN) != 1 or page.partition(_BEGIN)[2].count(_END) != 1:
        raise InputError(f"{path} does not have the markers of the tables, {_BEGIN} and {_END}, once and in this order")


def write(path: Path, results: Iterable[Result]) -> None:
    """Write the tables into the page, between its markers."""
    results = list(results)
    sections = [f"{_BEGIN}\n\n{summary(results)}.\n"]
    for library in dict.fromkeys(result.name.partition(":")[0] for result in results):
        rows = [_row(result) for result in results if result.name.startswith(f"{library}:")]
        table = tabulate(rows, headers=HEADERS, tablefmt="github", disable_numparse=True)
        sections.append(f"## {library}\n\n{table}\n")
    page = path.read_text()
    before, rest = page.split(_BEGIN)
    after = rest.split(_END)[1]
    path.write_text(before + "\n".join(sections) + "\n" + _END + after)


def _row(result: Result) -> tuple[str, ...]:
    error = "" if result.error is None else f"{result.error:.0e}"
    return (
        result.name.partition(":")[2],
        result.front_end,
        f"{result.seconds:.1f}" if result.front_end else "",
        str(result.steps) if result.front_end else "",
        error,
        f"{result.softmax:.2g}" if result.softmax else "",
        f"{result.constants:.2g}" if result.constants else "",
        _shortened(result.problem).replace("|", "\\|"),
    )


def _shortened(problem: str) -> str:
    first = re.sub(r"/\S*/(\S+\.py)", r"\1", next(iter(problem.splitlines()), ""))
    return first if len(first) < 160 else f"{first[:157]}..."
