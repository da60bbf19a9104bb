"""Measure how far explanations are from those in double precision, and write the table of docs/conditioning.md."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.conditioning.measure import (
    NETWORKS,
    PRESETS,
    SIDE,
    Conditioning,
    measure,
    presets_of,
    subject,
)
from benchmarks.conditioning.report import missed, table, with_table

ROOT = Path(__file__).parent.parent.parent


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conditioning", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help=f"default: {', '.join(NETWORKS)}")
    parser.add_argument("--presets", nargs="+", choices=tuple(PRESETS), help="default: all that fit")
    parser.add_argument("--size", type=int, default=SIDE, help="of the random images, in pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "conditioning.jsonl", help="the raw numbers")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "conditioning.md", help="the page with the table")
    parser.add_argument("--keep", action="store_true", help="add to the results that are there")
    parser.add_argument("--report-only", action="store_true", help="measure nothing")
    return parser.parse_args(arguments)


def read(results: Path) -> list[Conditioning]:
    """The results of earlier runs; the last one of each network and preset."""
    lines = results.read_text().splitlines() if results.exists() else []
    found = [Conditioning(**json.loads(line)) for line in lines]
    return list({(each.network, each.preset): each for each in found}.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the table, and return 1 if the default preset misses its goal."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    if not (options.keep or options.report_only):
        options.results.unlink(missing_ok=True)
    known = {(each.network, each.preset) for each in read(options.results)}
    for name in () if options.report_only else options.networks:
        wanted = [preset for preset in options.presets or presets_of(name) if (name, preset) not in known]
        of = subject(name, options.size, options.batch) if wanted else None
        for preset in wanted:
            assert of is not None
            with options.results.open("a") as file:
                file.write(json.dumps(asdict(measure(of, preset))) + "\n")
    found = read(options.results)
    if options.page.exists():
        options.page.write_text(with_table(options.page.read_text(), found))
    print(table(found))
    for each in missed(found):
        print(f"{each.network}: the error of the preset {each.preset!r} is {each.single:.1e}", file=sys.stderr)
    return 1 if missed(found) else 0


if __name__ == "__main__":
    sys.exit(main())
