"""What the workers wrote, with the questions that the report asks of it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.checks import TOLERANCE_FLOAT64, tolerance
from benchmarks.plan import Case, layers

# From here on a peer computes something else, and its cost is not that of the same explanation.
ANOTHER_RESULT = 0.1


@dataclass(frozen=True)
class Record:
    """One case, its numbers as multiples of those of the gradient in the same rounds."""

    case: Case
    fields: dict[str, Any]

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Record:
        """The record that a line of a result file holds."""
        case = fields["case"]
        return cls(Case(**{**case, "contestants": tuple(case["contestants"])}), fields)

    def entry(self, contestant: str) -> dict[str, Any]:
        """What was measured of a contestant; empty where it did not take part."""
        entry: dict[str, Any] = self.fields.get("entries", {}).get(contestant, {})
        return entry

    def seconds(self, contestant: str = "gradient") -> float | None:
        """The median time of a call."""
        times = self.entry(contestant).get("seconds")
        return statistics.median(times) if times else None

    def ratios(self, contestant: str) -> list[float]:
        """The time in each round, divided by that of the gradient in the same round."""
        times, units = self.entry(contestant).get("seconds"), self.entry("gradient").get("seconds")
        return [time / unit for time, unit in zip(times, units, strict=True)] if times and units else []

    def time(self, contestant: str) -> float | None:
        """The median of the ratios."""
        ratios = self.ratios(contestant)
        return statistics.median(ratios) if ratios else None

    def memory(self, contestant: str) -> float | None:
        """The peak of memory, divided by that of the gradient."""
        peak, unit = self.entry(contestant).get("peak"), self.entry("gradient").get("peak")
        return peak / unit if peak is not None and unit else None

    def failures(self) -> dict[str, str]:
        """Why contestants did not run."""
        if "died" in self.fields:
            return dict.fromkeys(self.case.contestants, self.fields["died"])
        return {name: entry["failure"] for name, entry in self.fields["entries"].items() if "failure" in entry}

    def is_another_result(self, contestant: str) -> bool:
        """Whether what was timed is not the explanation that fxlrp computes."""
        difference = self.entry(contestant).get("difference")
        return difference is not None and not difference <= ANOTHER_RESULT

    def wrong(self) -> Iterator[str]:
        """What of fxlrp's results is further from the unoptimised one than rounding explains."""
        case, noise, exact = self.case, self.fields.get("rounding"), self.fields.get("float64")
        title = f"{case.model}, {case.preset}, batch {case.batch}, {case.size} {case.unit}"
        if exact is not None and not exact <= TOLERANCE_FLOAT64:
            yield f"{title}: the optimized program differs by {exact:.0e} in float64"
        for name in case.contestants:
            difference = self.entry(name).get("difference")
            checked = name.startswith("fxlrp") and self.fields["settings"]["dtype"] == "float32"
            if checked and noise is not None and difference is not None and not difference <= tolerance(noise):
                yield f"{title}: {name} differs by {difference:.0e}, and rounding makes no more than {noise:.0e}"


def _key(case: Case) -> tuple[Any, ...]:
    """What tells cases apart, whoever takes part."""
    return case.series, case.model, case.preset, case.batch, case.size


@dataclass(frozen=True)
class Results:
    """Every record of a run, and where it ran."""

    where: dict[str, str]
    records: list[Record]

    @classmethod
    def read(cls, folder: Path, models: tuple[str, ...]) -> Results:
        """The result files in a folder, in the order of ``models``."""
        lines = [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
        places = [line["where"] for line in lines if "where" in line]
        # Of a case that was measured again, the last counts.
        latest = {_key(record.case): record for record in (Record.of(line) for line in lines if "case" in line)}
        records = list(latest.values())
        if not places or not records:
            raise SystemExit("there are no results")
        if any(place != places[0] for place in places):
            raise SystemExit("these results are of different machines, versions or settings: start afresh")
        order = {model: position for position, model in enumerate(models)}
        return cls(places[0], sorted(records, key=lambda record: order.get(record.case.model, len(order))))

    def apart(self, series: Collection[str]) -> tuple[Results, Results]:
        """The results of all other series, and those of ``series``."""
        own = [record for record in self.records if record.case.series in series]
        others = [record for record in self.records if record.case.series not in series]
        return Results(self.where, others), Results(self.where, own)

    def of(self, series: str) -> list[Record]:
        """The records of a series."""
        found = [record for record in self.records if record.case.series == series]
        if series == "length":
            return sorted(found, key=lambda record: (record.case.model, record.case.preset or "", record.case.size))
        return sorted(found, key=lambda record: layers(record.case.model)) if series == "depth" else found

    def contestants(self, series: str) -> list[str]:
        """Who takes part in a series, beside the gradient."""
        names = dict.fromkeys(name for record in self.of(series) for name in record.case.contestants)
        return [name for name in names if name != "gradient"]

    def wrong(self) -> list[str]:
        """Every result of fxlrp that is not right."""
        return [line for record in self.records for line in record.wrong()]
