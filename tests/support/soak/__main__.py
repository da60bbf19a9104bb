"""Use explainers for long: ``make soak``, or ``make soak SOAK_ARGS="--scale 0.1 --only call"``."""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import pickle
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

import fxlrp
from soak.growth import growth
from soak.interrupts import interrupted, moments
from soak.models import Branching, batch, dense, images, pixels

# In megabytes for a run: what an allocator keeps varies by this much.
TOLERATED = 16.0


def _threads(explain: fxlrp.Explainer) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda target: explain(images(), target=target), [number % 5 for number in range(64)]))


def _first_calls() -> None:
    explain = fxlrp.compile(Branching().eval())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: explain(batch() + number), range(8)))


def _interrupts(state: dict[str, int]) -> None:
    """An interrupt at the next moment of a compilation and a call."""
    model = dense()
    if not state:
        state.update(at=1, all=moments(lambda: fxlrp.compile(model)(batch())))
    call = nn.Module.__call__
    interrupted(lambda: fxlrp.compile(model)(batch()), state["at"])
    state["at"] = (state["at"] + 997) % state["all"] + 1
    assert nn.Module.__call__ is call
    torch.testing.assert_close(fxlrp.compile(model)(batch()), fxlrp.compile(dense())(batch()), rtol=0, atol=0)


def _fork(explain: fxlrp.Explainer) -> None:
    process = multiprocessing.get_context("fork").Process(target=lambda: explain(images(), target=1))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def _scenarios() -> dict[str, tuple[Callable[[], Any], int]]:
    model = pixels()
    explain, state = fxlrp.compile(model), dict[str, int]()
    found: dict[str, tuple[Callable[[], Any], int]] = {
        "call": (lambda: explain(images(), target=1), 10_000),
        "call at a place, with a condition": (lambda: explain(images(), at="0", only={"0": [1]}), 2_000),
        "64 calls from 8 threads": (lambda: _threads(explain), 100),
        "8 first calls from 8 threads": (_first_calls, 40),
        "debug": (lambda: explain.debug(images(), target=1), 300),
        "compile and call": (lambda: fxlrp.compile(model)(images()), 300),
        "compile with debug=True": (lambda: fxlrp.compile(model, debug=True).check_stages(images()), 100),
        "autograd": (lambda: fxlrp.autograd(model)(images().requires_grad_()).sum().backward(), 200),
        "deep copy": (lambda: copy.deepcopy(explain)(images()), 200),
        "pickle": (lambda: pickle.loads(pickle.dumps(explain))(images()), 200),
        "capture by torch.export": (
            lambda: fxlrp.compile(model, example_inputs=images(), capture="export")(images()),
            60,
        ),
        "interrupt": (lambda: _interrupts(state), 300),
    }
    if "fork" in multiprocessing.get_all_start_methods():
        found["forked process"] = (lambda: _fork(explain), 100)
    return found


def main() -> None:
    """Run everything, print what it left behind, and exit with status 1 if a process grows."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of repetitions (default: %(default)s)")
    parser.add_argument("--only", action="append", help="a part of the name of what to run; all by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[tuple[object, ...]] = []
    failed = False
    for name, (function, usual) in _scenarios().items():
        if options.only and not any(each in name for each in options.only):
            continue
        count, start = max(4, round(usual * options.scale)), time.perf_counter()
        left = growth(function, count)
        # PyTorch keeps the sources of its own graphs, six for each capture.
        grows = left.megabytes > TOLERATED or (left.sources > 0 and "torch.export" not in name and "first" not in name)
        failed = failed or grows
        seconds = time.perf_counter() - start
        rows.append((name, count, seconds, left.megabytes, left.sources, left.objects, "grows" if grows else ""))
        print(f"{name}: {rows[-1][2:]}", file=sys.stderr, flush=True)
    headers = ("what", "times", "seconds", "memory in MB", "sources", "objects", "")
    print(tabulate(rows, headers=headers, floatfmt=".1f"))
    sys.exit(failed)


if __name__ == "__main__":
    main()
