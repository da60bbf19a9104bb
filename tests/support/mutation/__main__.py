"""Change passes and relevance functions a little, and see whether the quick tests notice: ``make mutate``."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch._dynamo  # for the tests: forked processes have it then
import torch.export
from tabulate import tabulate

from mutation.covering import Covering, measure
from mutation.mutants import Mutant, places, sample
from mutation.trial import killer

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "build" / "mutation"
TREE, COVERAGE, RESULTS = FOLDER / "tree", FOLDER / "coverage", FOLDER / "results.jsonl"
CHANGED = ("passes", "fxlrp/relevance")


@dataclass(frozen=True)
class Stage:
    """The tests that a mutant is tried against.

    Args:
        files: From how many test files at most.
        each: How many tests of a file at most.
        seconds: How long they may take; what takes longer is noticed.
    """

    files: int
    each: int
    seconds: int


# What survives a few tests is tried against more.
STAGES = (
    Stage(files=4, each=20, seconds=120),
    Stage(files=12, each=40, seconds=240),
    Stage(files=24, each=30, seconds=400),
)


@dataclass(frozen=True)
class Result:
    """What became of a mutant.

    Args:
        name: The name of the mutant.
        file: The file that it changes.
        change: The changed line.
        by: What noticed it; None if nothing did.
    """

    name: str
    file: str
    change: str
    by: str | None


def main() -> None:
    """Try mutants until the count or the time is reached; results are kept, and a further call goes on."""
    parser = argparse.ArgumentParser(prog="make mutate", description=__doc__)
    parser.add_argument("--mutants", type=int, default=300, help="in all (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="the time to spend")
    parser.add_argument("--seed", type=int, default=0, help="of the random choice (default: %(default)s)")
    parser.add_argument("--only", default="", help="a part of the path of the files to change")
    parser.add_argument("--fresh", action="store_true", help="copy the sources and measure coverage again")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="folders of the tests that may notice")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.fresh or not COVERAGE.exists():
        shutil.rmtree(FOLDER, ignore_errors=True)
        _copy()
        measure(TREE, COVERAGE, options.tests)
    paths = sorted(str(path.relative_to(TREE)) for folder in CHANGED for path in (TREE / folder).rglob("*.py"))
    mutants = sample(TREE, list(places(TREE, [path for path in paths if options.only in path])), options.seed)
    started, results = time.monotonic(), []
    for result in _results(mutants):
        results.append(result)
        print(f"{len(results)}: {result.name}: {result.by or 'not noticed'}", file=sys.stderr, flush=True)
        if len(results) == options.mutants or time.monotonic() - started > 60 * options.minutes:
            break
    _report(results)


def _results(mutants: Iterator[Mutant]) -> Iterator[Result]:
    """The result of each mutant, which a call before may have found."""
    covering = Covering(COVERAGE, TREE)
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    known = {result.name: result for result in (Result(**json.loads(line)) for line in lines)}
    for mutant in mutants:
        if mutant.name not in known:
            by = None
            for stage in STAGES:
                place = mutant.place
                tests = [] if by else covering.tests(place.file, place.line, files=stage.files, each=stage.each)
                by = by or (killer(TREE, mutant, tests, stage.seconds) if tests else None)
            known[mutant.name] = Result(mutant.name, mutant.place.file, str(mutant), by)
            with RESULTS.open("a") as file:
                file.write(json.dumps(asdict(known[mutant.name])) + "\n")
        yield known[mutant.name]


def _copy() -> None:
    """Copy the files of the repository, in which the changes are made."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(lambda name: (ROOT / name).exists(), listed.stdout.splitlines()):
        (TREE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, TREE / name, follow_symlinks=False)


def _report(results: Sequence[Result]) -> None:
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[result.file].append(result)
    counts = [[file, len(found), sum(each.by is not None for each in found)] for file, found in sorted(groups.items())]
    print(tabulate(counts, headers=("file", "mutants", "noticed")))
    print("\nNot noticed:\n", *(each.change for each in results if each.by is None), sep="\n")
    share = sum(each.by is not None for each in results) / len(results)
    spread = 1.96 * (share * (1 - share) / len(results)) ** 0.5
    print(f"\n{share:.1%} of {len(results)} were noticed; of all, {share - spread:.1%} to {share + spread:.1%} (95 %)")


if __name__ == "__main__":
    main()
