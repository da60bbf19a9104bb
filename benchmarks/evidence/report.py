"""The page: ``template.md`` with the results as tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.evidence.methods import of_half
from benchmarks.evidence.problems import PROBLEMS
from benchmarks.evidence.results import DEFAULT, CellResults, Comparison, Metric, Results, Spread, mean, names
from benchmarks.evidence.samples import Half

TEMPLATE = Path(__file__).with_name("template.md")
GOALS = {"integrated gradients": 0.75, "DeepLift": 0.75, "gradient x input": 0.75}
GOAL_FOR_PRESETS = 0.6


def page(results: Results, picture: str, template: str | None = None) -> str:
    """The whole page, which shows the picture of this name."""
    text = TEMPLATE.read_text() if template is None else template
    sections: dict[str, Callable[[], str]] = {
        "picture": lambda: f"![The rank accuracy of every method in every cell, as colours]({picture})",
        "where": lambda: _where(results),
        "problems": _problems,
        "summary": lambda: _summary(results),
        "comparisons": lambda: _comparisons(results),
        "losses": lambda: _losses(results),
        "networks": lambda: _by_network(results),
        "strengths": lambda: _strengths(results),
        "candidates": lambda: _candidates(results),
        "cells": lambda: _by_problem(results),
        "left out": lambda: _left_out(results),
        "failures": lambda: _failures(results),
    }
    for name, section in sections.items():
        mark = f"<!-- {name} -->"
        if mark not in text:
            raise ValueError(f"the template has no place for the section {name!r}: add {mark}")
        text = text.replace(mark, section())
    return text


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return tabulate(rows, headers=header, tablefmt="github", disable_numparse=True, stralign="left")


def _title(name: str) -> str:
    return f"`{name}`" if name in names("preset") else name


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _spread(spread: Spread) -> str:
    return _number(spread.mean) + (f" ± {spread.error:.2f}" if spread.error is not None else "")


def _where(results: Results) -> str:
    counts = {
        half: len({record["cell"]["seed"] for cell in results.of(half) for record in cell.records}) for half in HALVES
    }
    networks = sum(len(cell.explained) for cell in results.cells)
    seconds = sum(record["seconds"] for cell in results.cells for record in cell.records)
    return (
        f"{networks} networks are explained, in {len(results.of('report'))} cells that are reported (up to "
        f"{counts['report']} seeds each) and {len(results.of('choose'))} cells that serve to choose (up to "
        f"{counts['choose']} seeds each). The cells took {seconds / 60:.0f} minutes together, one thread "
        f"each ({', '.join(results.where.values())})."
    )


NEAR, FAR = 0.03, 0.15  # behind the best preset in rank accuracy
HALVES: tuple[Half, ...] = ("report", "choose")


def _problems() -> str:
    rows = [
        (problem.title, problem.half, problem.pooling, f"{problem.threshold:.0%}", ", ".join(problem.networks))
        for problem in PROBLEMS.values()
    ]
    return _table(("problem", "half", "relevance that counts", "right at least", "networks"), rows)


def _families(cells: Sequence[CellResults]) -> list[str]:
    return list(dict.fromkeys(cell.family for cell in cells))


def _summary(results: Results) -> str:
    cells = results.of("report")
    families = _families(cells)
    rows = []
    for name in names("preset", "other", "baseline"):
        running = [cell for cell in cells if cell.runs(name)]
        means = [_number(mean([cell for cell in running if cell.family == family], name)) for family in families]
        overall = [_number(mean(running, name)), _number(mean(running, name, "mass"))]
        rows.append((_title(name), *overall, *means, f"{len(running)}/{len(cells)}"))
    return _table(("method", "rank", "mass", *(f"rank, {family}" for family in families), "cells"), rows)


def _row(name: str, comparison: Comparison) -> tuple[str, ...]:
    counts = (str(comparison.better), str(comparison.tied), str(comparison.worse))
    return (name, *counts, "" if comparison.ahead != comparison.ahead else f"{comparison.ahead:.0%}")


def _comparisons(results: Results) -> str:
    rows, missed = [], []
    for name in names("preset", "other", "baseline"):
        if name == DEFAULT:
            continue
        comparison = results.compare("report", DEFAULT, name)
        by_mass = results.compare("report", DEFAULT, name, "mass")
        rows.append((*_row(name, comparison), *_row(name, by_mass)[1:]))
        goal = GOALS.get(name, GOAL_FOR_PRESETS if name in names("preset") else 0.0)
        if comparison.ahead < goal:
            missed.append(f"{name} ({comparison.ahead:.0%} of the cells, wanted {goal:.0%})")
    header = ("against", "better", "tied", "worse", "ahead or tied")
    verdict = (
        f"Missed by rank accuracy: {', '.join(missed)}." if missed else "By rank accuracy, all of them are reached."
    )
    other = "\n\n" + _other_pooling(results)
    return _table((*header, *(f"{title}, mass" for title in header[1:])), rows) + f"\n\n{verdict}{other}"


def _other_pooling(results: Results) -> str:
    parts = []
    for name in GOALS:
        shares = {
            pooling: results.compare("report", DEFAULT, name, "rank", pooling).ahead
            for pooling in ("absolute", "positive")
        }
        parts.append(f"{name} {shares['absolute']:.0%} and {shares['positive']:.0%}")
    return (
        "If the absolute value counted in all problems, and if the positive part did, the default preset would be "
        f"ahead or tied: {', '.join(parts)}."
    )


def _losses(results: Results) -> str:
    rows = []
    others = [name for name in names("preset", "other") if name != DEFAULT]
    for cell in results.of("report"):
        if not cell.runs(DEFAULT):
            rows.append((cell.title, "does not run", "", "", ""))
            continue
        differences = {name: cell.difference(DEFAULT, name) for name in others if cell.runs(name)}
        lost = {name: spread for name, spread in differences.items() if spread.outcome == "worse"}
        if not lost:
            continue
        worst = min(lost, key=lambda name: lost[name].mean)
        against = [name for name in GOALS if name in lost]
        rows.append(
            (
                cell.title,
                _spread(cell.spread(DEFAULT)),
                f"{worst}, {_spread(cell.spread(worst))}",
                f"{len(lost)}/{len(differences)}",
                ", ".join(against),
            )
        )
    if not rows:
        return "There are none."
    header = ("cell", "default", "the best", "better than the default", "of these three")
    return _table(header, rows)


def _by_network(results: Results) -> str:
    cells = results.of("report")
    networks = list(dict.fromkeys(cell.network for cell in cells))
    rows = [
        (
            _title(name),
            *(_number(mean([cell for cell in cells if cell.network == network], name)) for network in networks),
        )
        for name in names("preset", "other", "baseline")
    ]
    return _table(("method", *networks), rows)


def _strengths(results: Results) -> str:
    """Where each preset is as good as the best of them, and where it is not."""
    groups: dict[str, list[CellResults]] = {}
    for cell in results.of("report"):
        groups.setdefault(f"{cell.family}: {cell.network}", []).append(cell)
    presets = [name for name in names("preset") if name != DEFAULT]
    best = {title: max(mean(cells, name) or 0.0 for name in presets) for title, cells in groups.items()}
    rows = []
    for name in presets:
        means = {title: mean(cells, name) for title, cells in groups.items()}
        behind = {title: best[title] - value for title, value in means.items() if value is not None}
        near = ", ".join(title for title, gap in behind.items() if gap <= NEAR)
        far = ", ".join(title for title, gap in behind.items() if gap >= FAR)
        rows.append((_title(name), near, far))
    return _table(("preset", "among the best", "far behind"), rows)


def _candidates(results: Results) -> str:
    cells = results.of("choose")
    if not cells:
        return "Nothing was measured on this half."
    families = _families(cells)
    measured = {method.name for method in of_half("choose")}
    everyone = [name for name in (*names("candidate"), *names("preset", "other")) if name in measured]
    rows = []
    for name in everyone:
        running = [cell for cell in cells if cell.runs(name)]
        if not running:
            continue
        means = [_number(mean([cell for cell in running if cell.family == family], name)) for family in families]
        shares = [results.compare("choose", name, other).ahead for other in (DEFAULT, *GOALS)]
        worse = results.compare("choose", name, DEFAULT)
        versus = f"{worse.better}/{worse.tied}/{worse.worse}"
        averages = (_number(mean(running, name)), _number(mean(running, name, "mass")))
        rows.append((name, *averages, *means, versus, *(f"{share:.0%}" for share in shares[1:])))
    header = (
        "rules",
        "rank",
        "mass",
        *families,
        "default: better/tied/worse",
        *(f"ahead of {other}" for other in GOALS),
    )
    return _table(header, rows)


def _by_problem(results: Results, metric: Metric = "rank") -> str:
    sections = []
    for title in dict.fromkeys(cell.problem.title for cell in results.of("report")):
        cells = [cell for cell in results.of("report") if cell.problem.title == title]
        rows = []
        for name in names("preset", "other", "baseline"):
            texts = [_cell(cell, name, metric) for cell in cells]
            rows.append((_title(name), *texts))
        sections.append(f"### {title}\n\n" + _table(("method", *(cell.network for cell in cells)), rows))
    return "\n\n".join(sections)


def _cell(cell: CellResults, name: str, metric: Metric) -> str:
    if not cell.runs(name):
        return "–"
    mark = " †" if cell.unusable(name) else ""
    return _spread(cell.spread(name, metric)) + mark


def _left_out(results: Results) -> str:
    rows = [
        (
            cell.title,
            f"{len(cell.explained)}/{len(cell.records)}",
            f"{statistics.fmean(record['accuracy'] for record in cell.records):.0%}",
            f"{cell.records[0]['threshold']:.0%}",
        )
        for cell in results.left_out()
    ]
    if not rows:
        return "Every network is right often enough."
    return _table(("cell", "explained", "right on average", "wanted"), rows)


def _failures(results: Results) -> str:
    where: dict[tuple[str, str], list[str]] = {}
    for half in HALVES:
        for cell in results.of(half):
            for name in names("preset", "other", "baseline", "candidate"):
                for reason in sorted(cell.reasons(name)):
                    where.setdefault((name, reason), []).append(f"{cell.problem.kind}: {cell.network}")
    # Methods that fail in the same way in the same place share a row.
    merged: dict[tuple[str, str], list[str]] = {}
    for (name, reason), places in where.items():
        merged.setdefault((", ".join(sorted(set(places))), reason), []).append(name)
    if not merged:
        return "Everything ran."
    rows = [(", ".join(methods), places, reason.replace("|", "\\|")) for (places, reason), methods in merged.items()]
    return _table(("methods", "networks", "reason"), rows)
