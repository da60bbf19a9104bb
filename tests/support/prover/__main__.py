"""Try many random models: ``make prove``, or ``make prove PROVE_ARGS="--examples 500 --check conservation"``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from tabulate import tabulate

from fxlrp.vocabulary import CANONICAL
from operation_settings import WITHOUT_SAMPLES
from prover.aimed import AIMS
from prover.checks import CHECKS
from prover.planted import FAULTS, LIMIT, find
from prover.rows import OF_PASSES, REFUSED
from prover.search import LEFT_OUT, MODELS
from prover.tasks import Task, outcomes, prepare

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
    parser.add_argument("--jobs", type=int, default=1, help="processes, among which checks and passes are divided")
    options = parser.parse_args()
    prepare()
    sys.exit(_planted(options.seed) if options.planted else _prove(options))


def _prove(options: argparse.Namespace) -> bool:
    is_chosen = bool(options.check or options.passes)
    checks = options.check or ([] if is_chosen else list(CHECKS))
    passes = options.passes or ([] if is_chosen else list(AIMS))
    examples = options.examples * (RANDOM if passes and checks else 10) // 10
    share = examples / max(sum(1 / CHECKS[name].cost for name in checks), 1e-9)
    turns = max(1, sum(AIMS[name].turns for name in passes))
    rest = options.examples - examples * bool(checks)
    tasks = [Task(name, max(1, round(share / CHECKS[name].cost)), options.seed) for name in checks]
    tasks += [Task(name, max(1, rest * AIMS[name].turns // turns), options.seed, is_pass=True) for name in passes]
    calls: Counter[str] = Counter()
    rows, failed = [], False
    for outcome in outcomes(tasks, options.jobs):
        row, problem = outcome.row, outcome.problem
        print(f"{row[0]}: {row[-1]}", problem or "", sep="\n" if problem else "", file=sys.stderr, flush=True)
        rows.append(row)
        calls += outcome.calls
        failed |= problem is not None
    print(tabulate(rows, headers=("check", MODELS, LEFT_OUT, "applied", "seconds", ""), floatfmt=".0f"))
    print(coverage(calls))
    return failed


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
