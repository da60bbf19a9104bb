"""Try many random models: ``make prove``, or ``make prove PROVE_ARGS="--examples 500 --check conservation"``."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from tabulate import tabulate

from prover.checks import CHECKS, Check
from prover.models import Program, programs
from prover.parts import PARTS


def main() -> None:
    """Run the checks, print what they tried, and exit with status 1 if one does not hold."""
    parser = argparse.ArgumentParser(prog="make prove", description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000, help="models in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random models (default: %(default)s)")
    parser.add_argument("--check", choices=CHECKS, action="append", help="a check to run; all by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = {name: CHECKS[name] for name in options.check or CHECKS}
    share = options.examples / sum(1 / check.cost for check in chosen.values())
    parts: Counter[str] = Counter()
    rows, failed = [], False
    for name, check in chosen.items():
        start, tried = time.perf_counter(), Counter[str]()
        problem = _violation(check, max(1, round(share / check.cost)), options.seed, tried)
        failed = failed or problem is not None
        rows.append([name, tried.pop("models"), time.perf_counter() - start, "holds" if problem is None else "fails"])
        print(f"{name}: {rows[-1][-1]}", problem or "", sep="\n" if problem else "", file=sys.stderr, flush=True)
        parts += tried
    print(tabulate(rows, headers=("check", "models", "seconds", ""), floatfmt=".0f"))
    unused = sorted({part.name for part in PARTS} - parts.keys())
    print(f"\n{len(parts)} parts in {parts.total()} calls, of each at least {min(parts.values())}")
    print(f"in no model: {', '.join(unused) or 'none'}")
    sys.exit(failed)


def _violation(check: Check, examples: int, start: int, tried: Counter[str]) -> str | None:
    """The smallest model that was found for which a check does not hold, and why; counts the models and their parts."""
    failing: list[tuple[int, Program, Exception]] = []

    @seed(start)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(programs(fits=check.fits))
    def holds(program: Program) -> None:
        if not failing:
            tried.update(["models", *(step.part.name for step in program.steps)])
        try:
            check.run(program)
        except Exception as error:
            failing.append((len(program.steps), program, error))
            raise

    try:
        holds()
    except Exception:
        if not failing:
            raise
        _, program, error = min(failing, key=lambda each: each[0])
        return f"{program}\n{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    main()
