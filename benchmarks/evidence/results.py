"""What a run found, with the questions that the report asks of it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.evidence.methods import METHODS, Group
from benchmarks.evidence.problems import PROBLEMS
from benchmarks.evidence.run import RECORDS, WHERE, read
from benchmarks.evidence.samples import Half, Pooling, Problem

Metric = Literal["rank", "mass"]
DEFAULT = "default"
TIED = 0.005  # differences that tables do not show
Outcome = Literal["better", "tied", "worse"]


@dataclass(frozen=True)
class Spread:
    """The mean over seeds and its standard error, which one seed does not have."""

    mean: float
    error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of some values."""
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(statistics.fmean(values), error)

    @property
    def outcome(self) -> Outcome:
        """What a difference means: it counts if it is more than its standard error, and more than rounding."""
        if abs(self.mean) <= max(self.error or 0.0, TIED):
            return "tied"
        return "better" if self.mean > 0 else "worse"


@dataclass(frozen=True)
class CellResults:
    """The records of a problem and a network, one for each seed."""

    problem: Problem
    network: str
    records: tuple[dict[str, Any], ...]

    @property
    def title(self) -> str:
        """The cell in words."""
        return f"{self.problem.title}, {self.network}"

    @property
    def family(self) -> str:
        """What kind of problem it is, for means over cells."""
        return self.problem.title.partition(",")[0]

    @property
    def explained(self) -> list[dict[str, Any]]:
        """The records of networks that are right often enough."""
        return [record for record in self.records if "methods" in record]

    @property
    def accuracy(self) -> float:
        """The mean share of test samples that the networks classify correctly."""
        return statistics.fmean(record["accuracy"] for record in self.records)

    def reasons(self, method: str) -> set[str]:
        """Why a method does not run."""
        entries = [record["methods"].get(method, {}) for record in self.explained]
        return {entry["reason"] for entry in entries if "reason" in entry}

    def runs(self, method: str) -> bool:
        """Whether a method explains every network of the cell that is explained."""
        entries = [record["methods"].get(method) for record in self.explained]
        return bool(entries) and all(entry is not None and "reason" not in entry for entry in entries)

    def unusable(self, method: str) -> int:
        """How many samples have NaN or infinity in their explanation."""
        return sum(record["methods"][method][self.problem.pooling]["unusable"] for record in self.explained)

    def values(self, method: str, metric: Metric, pooling: Pooling | None = None) -> list[float]:
        """What a method scores for each seed."""
        return [record["methods"][method][pooling or self.problem.pooling][metric] for record in self.explained]

    def spread(self, method: str, metric: Metric = "rank") -> Spread:
        """What a method scores."""
        return Spread.of(self.values(method, metric))

    def difference(self, first: str, second: str, metric: Metric = "rank", pooling: Pooling | None = None) -> Spread:
        """By how much one method is ahead of another, seed by seed."""
        pairs = zip(self.values(first, metric, pooling), self.values(second, metric, pooling), strict=True)
        return Spread.of([ours - theirs for ours, theirs in pairs])


@dataclass(frozen=True)
class Comparison:
    """In how many cells one method is better than another, tied, and worse."""

    better: int
    tied: int
    worse: int

    @property
    def ahead(self) -> float:
        """The share of cells in which it is better or tied."""
        total = self.better + self.tied + self.worse
        return (self.better + self.tied) / total if total else math.nan


@dataclass(frozen=True)
class Results:
    """Every record of a run, and where it ran."""

    where: dict[str, str]
    cells: tuple[CellResults, ...]

    @classmethod
    def read(cls, folder: Path) -> Results:
        """What ``run`` wrote into a folder."""
        records = read(folder / RECORDS)
        if not records:
            raise SystemExit(f"there are no results in {folder}: run without --report-only first")
        return cls(json.loads((folder / WHERE).read_text()), tuple(_cells(records)))

    def of(self, half: Half) -> list[CellResults]:
        """The cells of a half in which at least one network is explained."""
        return [cell for cell in self.cells if cell.problem.half == half and cell.explained]

    def left_out(self) -> list[CellResults]:
        """The cells in which a network is not right often enough."""
        return [cell for cell in self.cells if len(cell.explained) < len(cell.records)]

    def compare(
        self, half: Half, first: str, second: str, metric: Metric = "rank", pooling: Pooling | None = None
    ) -> Comparison:
        """In how many cells where both run a method is ahead of another."""
        outcomes = [
            cell.difference(first, second, metric, pooling).outcome
            for cell in self.of(half)
            if cell.runs(first) and cell.runs(second)
        ]
        return Comparison(outcomes.count("better"), outcomes.count("tied"), outcomes.count("worse"))


def names(*groups: Group) -> list[str]:
    """The methods of some groups."""
    return [method.name for method in METHODS if method.group in groups]


def mean(cells: Iterable[CellResults], method: str, metric: Metric = "rank") -> float | None:
    """The mean of a method over the cells where it runs."""
    found = [cell.spread(method, metric).mean for cell in cells if cell.runs(method)]
    return statistics.fmean(found) if found else None


def _cells(records: Sequence[dict[str, Any]]) -> Iterator[CellResults]:
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        grouped.setdefault((record["cell"]["problem"], record["cell"]["network"]), []).append(record)
    order = [(name, network) for name, problem in PROBLEMS.items() for network in problem.networks]
    for problem, network in sorted(grouped, key=order.index):
        yield CellResults(PROBLEMS[problem], network, tuple(grouped[problem, network]))
