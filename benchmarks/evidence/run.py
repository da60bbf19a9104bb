"""Runs a plan: measures the cells that are not yet measured and appends their records to a file."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.evidence.measure import measure
from benchmarks.evidence.plan import Plan, cells
from benchmarks.settings import Settings
from benchmarks.where import describe

RECORDS = "cells.jsonl"
WHERE = "where.json"
NETWORKS = "networks"


def run(plan: Plan, folder: Path) -> None:
    """Measure every cell of a plan that ``folder`` has no record of, and keep the trained networks there."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / RECORDS
    done = {json.dumps(record["cell"]) for record in read(file)}
    where = describe(Settings())
    (folder / WHERE).write_text(json.dumps({name: where[name] for name in ("machine", "software")}))
    for cell in cells(plan):
        if json.dumps(cell.fields) in done:
            continue
        record = measure(cell, plan, folder / NETWORKS)
        with file.open("a") as output:
            output.write(json.dumps(record) + "\n")
        what = f"{cell.problem}, {cell.network}, seed {cell.seed}"
        print(f"{what}: right {record['accuracy']:.0%}, {record['seconds']:.0f} s", flush=True)


def read(file: Path) -> list[dict[str, object]]:
    """The records of a file, none if there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
