"""Call the public functions with wrong arguments: ``make fuzz``, or ``make fuzz FUZZ_ARGS="--call debug"``.

Every argument is every value once, then several arguments are random values at the same time.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator

import torch
from tabulate import tabulate

from fuzz import compiling, explaining, of_datasets, using
from fuzz.judge import Call, judged
from fuzz.values import VALUES

CALLS: dict[str, Call] = compiling.CALLS | explaining.CALLS | using.CALLS | of_datasets.CALLS


def singles(call: Call) -> Iterator[dict[str, str]]:
    """Every argument with every value."""
    for name in call.right:
        for value in VALUES:
            yield {name: value}


def several(call: Call, seed: int, count: int) -> Iterator[dict[str, str]]:
    """One to three arguments with random values."""
    generator, values = random.Random(seed), list(VALUES)
    for _ in range(count):
        names = generator.sample(list(call.right), min(len(call.right), generator.choice([1, 2, 3])))
        yield {name: generator.choice(values) for name in names}


def main() -> None:
    """Make the calls, print what came of them, and exit with status 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--random", type=int, default=100, help="calls with several changes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of these calls (default: %(default)s)")
    parser.add_argument("--call", action="append", help="a part of the name of the calls to make; all by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.chdir(tempfile.mkdtemp())
    rows: list[tuple[object, ...]] = []
    failed = total = 0
    for name, call in CALLS.items():
        if options.call and not any(each in name for each in options.call):
            continue
        start, outcomes = time.perf_counter(), collections.Counter[str]()
        faults: dict[str, list[str]] = collections.defaultdict(list)
        for changes in (*singles(call), *several(call, options.seed, options.random)):
            verdict = judged(call, changes)
            outcomes[verdict.outcome] += 1
            if verdict.fault:
                faults[verdict.fault].append(", ".join(f"{key}={value}" for key, value in changes.items()))
        for fault, changed in faults.items():
            print(f"{name}: {fault} <- {'; '.join(changed[:6])} ({len(changed)})", flush=True)
        failed += sum(map(len, faults.values()))
        answered = outcomes.pop("answered", 0)
        refused = ", ".join(f"{error} {count}" for error, count in outcomes.most_common())
        total += answered + outcomes.total()
        rows.append((name, answered + outcomes.total(), answered, refused, time.perf_counter() - start))
    print(tabulate(rows, headers=("function", "calls", "answered", "errors", "seconds"), floatfmt=".0f"))
    print(f"\n{total} calls, of which {failed} are wrong")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
