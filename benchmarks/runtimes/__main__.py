"""Measure exported explanations in ONNX Runtime and AOTInductor, and write the table of docs/serving.md."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.runtimes.measure import BATCHES, NETWORKS, RUNTIMES, SIDE, Measured, measure, subject
from benchmarks.runtimes.report import table, with_table

ROOT = Path(__file__).parent.parent.parent


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes", description=__doc__)
    parser.add_argument("--models", nargs="+", default=NETWORKS, help=f"default: {', '.join(NETWORKS)}")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--size", type=int, default=SIDE, help="of the images, in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "runtimes.jsonl", help="the raw numbers")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "serving.md", help="the page with the table")
    parser.add_argument("--keep", action="store_true", help="add to the results that are there")
    parser.add_argument("--report-only", action="store_true", help="measure nothing")
    return parser.parse_args(arguments)


def read(results: Path) -> list[Measured]:
    """The results of earlier runs; the last one of each model, runtime and batch size."""
    lines = results.read_text().splitlines() if results.exists() else []
    found = [Measured(**json.loads(line)) for line in lines]
    return list({(each.model, each.runtime, each.batch): each for each in found}.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the table."""
    options = parse(arguments)
    torch.set_num_threads(1)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    if not (options.keep or options.report_only):
        options.results.unlink(missing_ok=True)
    for name in () if options.report_only else options.models:
        of = subject(name, options.size)
        for runtime in options.runtimes:
            with tempfile.TemporaryDirectory() as folder:
                found = measure(name, of, runtime, Path(folder), options.batches, options.rounds)
            with options.results.open("a") as file:
                file.writelines(json.dumps(asdict(each)) + "\n" for each in found)
    all_found = read(options.results)
    if options.page.exists():
        options.page.write_text(with_table(options.page.read_text(), all_found))
    print(table(all_found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
