"""Measure which methods find what decides, and write docs/evidence.md with its picture."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.evidence import plot, report
from benchmarks.evidence.plan import QUICK, Plan
from benchmarks.evidence.problems import PROBLEMS
from benchmarks.evidence.results import Results
from benchmarks.evidence.run import run

ROOT = Path(__file__).parent.parent.parent


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    parser.add_argument(
        "--problems", nargs="+", choices=tuple(PROBLEMS), metavar="PROBLEM", help="default: all of them"
    )
    parser.add_argument("--networks", nargs="+", metavar="NETWORK", help="default: all of them")
    parser.add_argument("--seeds", type=int, help="networks for each cell; default: 3")
    parser.add_argument("--quick", action="store_true", help="a few small cells, to try the suite itself")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "build" / "evidence", help="records and trained networks"
    )
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="the folder of the page and its picture")
    parser.add_argument(
        "--keep", action="store_true", help="add to the results that are there, trained networks included"
    )
    parser.add_argument("--report-only", action="store_true", help="measure nothing, write the page of what is there")
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan with what the command line says otherwise."""
    plan = QUICK if options.quick else Plan()
    networks = options.networks or plan.networks
    return replace(
        plan,
        problems=tuple(options.problems or plan.problems),
        networks=None if networks is None else tuple(networks),
        seeds=options.seeds or plan.seeds,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the page."""
    options = parse(arguments)
    results = options.results.absolute()
    if not options.report_only:
        if not options.keep and results.exists():
            shutil.rmtree(results)
        torch.set_num_threads(1)
        run(plan_of(options), results)
    found = Results.read(results)
    options.docs.mkdir(parents=True, exist_ok=True)
    plot.draw(found, options.docs / "evidence.png")
    (options.docs / "evidence.md").write_text(report.page(found, "evidence.png"))
    return 0


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # of this process; training is slow where weights have become subnormal
    sys.exit(main())
