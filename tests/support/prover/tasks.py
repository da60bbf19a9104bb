"""Checks and passes as tasks, which processes can share: what each tried, and what it found."""

from __future__ import annotations

import itertools
import multiprocessing
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from prover.aimed import aimed, holds
from prover.search import LEFT_OUT, MODELS, violation


@dataclass(frozen=True)
class Task:
    """A check, or a pass to aim at, with the number of models to try."""

    name: str
    examples: int
    seed: int
    is_pass: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a task tried: the row of the table, the calls of operations, and a problem that it found."""

    row: list[object]
    calls: Counter[str]
    problem: str | None


def outcomes(tasks: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    """Run tasks in so many processes, and return their outcomes in order."""
    if jobs == 1:
        yield from map(_outcome, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, prepare) as pool:
        yield from pool.imap(_outcome, tasks)


def prepare() -> None:
    """Use one thread, and do not repeat the warnings of operations that are deprecated or experimental."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def _outcome(task: Task) -> Outcome:
    start, calls = time.perf_counter(), Counter[str]()
    if task.is_pass:
        counts, problem = _aim(task.name, task.examples, task.seed, calls)
        found: list[object] = [counts[True] + counts[False], counts[None], counts[True]]
    else:
        problem = violation(task.name, task.examples, task.seed, calls)
        found = [*(calls.pop(each, 0) for each in (MODELS, LEFT_OUT)), ""]
    title = f"with {task.name} = without" if task.is_pass else task.name
    row = [title, *found, time.perf_counter() - start, "holds" if problem is None else "fails"]
    return Outcome(row, calls, problem)


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
