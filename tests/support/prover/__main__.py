"""Try many random models: ``make prove``, or ``make prove PROVE_ARGS="--examples 500 --check conservation"``."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import warnings
from collections import Counter

import torch
from tabulate import tabulate

from fxlrp.vocabulary import CANONICAL
from operation_settings import WITHOUT_SAMPLES
from prover.aimed import AIMS, aimed, holds
from prover.checks import CHECKS
from prover.planted import FAULTS, LIMIT, find
from prover.rows import OF_PASSES, REFUSED
from prover.search import LEFT_OUT, MODELS, violation

# Of ten models, so many are random, and the others aimed at passes.
RANDOM = 7


def main() -> None:
    """Run the checks, print what they tried, and exit with status 1 if one does not hold."""
    parser = argparse.ArgumentParser(prog="make prove", description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000, help="models in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random models (default: %(default)s)")
    parser.add_argument("--check", choices=CHECKS, action="append", help="a check to run; all by default")
    parser.add_argument("--pass", choices=AIMS, action="append", dest="passes", help="a pass to aim at; all by default")
    parser.add_argument("--planted", action="store_true", help="look for faults that are planted, instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # Operations that are deprecated or experimental say so.
    warnings.simplefilter("ignore")
    sys.exit(_planted(options.seed) if options.planted else _prove(options))


def _prove(options: argparse.Namespace) -> bool:
    is_chosen = bool(options.check or options.passes)
    checks = options.check or ([] if is_chosen else list(CHECKS))
    passes = options.passes or ([] if is_chosen else list(AIMS))
    examples = options.examples * (RANDOM if passes and checks else 10) // 10
    share = examples / max(sum(1 / CHECKS[name].cost for name in checks), 1e-9)
    calls: Counter[str] = Counter()
    rows, failed = [], False
    for name in checks:
        start, tried = time.perf_counter(), Counter[str]()
        problem = violation(name, max(1, round(share / CHECKS[name].cost)), options.seed, tried)
        counted = [tried.pop(each, 0) for each in (MODELS, LEFT_OUT)]
        rows.append([name, *counted, "", time.perf_counter() - start, "holds" if problem is None else "fails"])
        failed |= _tell(rows[-1], problem)
        calls += tried
    turns = max(1, sum(AIMS[name].turns for name in passes))
    for name in passes:
        start = time.perf_counter()
        share = (options.examples - examples * bool(checks)) * AIMS[name].turns // turns
        counts, problem = _aim(name, max(1, share), options.seed, calls)
        found = [counts[True] + counts[False], counts[None], counts[True], time.perf_counter() - start]
        rows.append([f"with {name} = without", *found, "holds" if problem is None else "fails"])
        failed |= _tell(rows[-1], problem)
    print(tabulate(rows, headers=("check", MODELS, LEFT_OUT, "applied", "seconds", ""), floatfmt=".0f"))
    print(coverage(calls))
    return failed


def _tell(row: list[object], problem: str | None) -> bool:
    print(f"{row[0]}: {row[-1]}", problem or "", sep="\n" if problem else "", file=sys.stderr, flush=True)
    return problem is not None


def _aim(name: str, examples: int, seed: int, calls: Counter[str]) -> tuple[Counter[bool | None], str | None]:
    """Whether the pass applied in programs for it, and the program that it changes; None if there is none."""
    counts: Counter[bool | None] = Counter()
    for each in itertools.islice(aimed(name, seed), examples):
        try:
            counts[holds(each)] += 1
        except Exception as error:
            return counts, f"{each}\n{type(error).__name__}: {error}"
        calls.update(step.part.operation for step in each.program.steps if step.part.operation is not None)
    return counts, None


def _planted(seed: int) -> bool:
    """Look for each planted fault, and tell how many models it took; True if one is not found."""
    missed = False
    for fault in FAULTS:
        found = find(fault, seed)
        missed |= found is None
        print(f"{fault}: {f'not found in {LIMIT} models' if found is None else f'found by model {found[0]}'}")
        print("" if found is None else f"{found[1]}\n", flush=True)
    return missed


REASONS = {
    **dict.fromkeys(WITHOUT_SAMPLES, "no kernel for double precision on a CPU, or written by a pass"),
    **dict.fromkeys(OF_PASSES, "written by a pass only"),
    **REFUSED,
}


def coverage(calls: Counter[str]) -> str:
    """How often each operation occurred, what share of the vocabulary did, and why the rest did not."""
    names = CANONICAL.operations
    counted = [f"{name} {calls[name]}" for name in sorted(names, key=lambda name: (-calls[name], name)) if calls[name]]
    height = -(-len(counted) // 5)
    lines = [counted[start::height] for start in range(height)]
    unused = [f"  {name}: {REASONS.get(name, 'by chance')}" for name in names if not calls[name]]
    share = f"{len(counted)} of {len(names)} operations ({len(counted) / len(names):.1%}), {calls.total()} calls"
    return "\n".join(
        ["", tabulate(lines, tablefmt="plain"), "", f"{share}; in no model:", *(unused or ["  none of the others"])]
    )


if __name__ == "__main__":
    main()
