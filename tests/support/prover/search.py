"""Try random models, count what they consist of, and make a model that fails smaller."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import fxlrp
from fxlrp.vocabulary import CANONICAL
from prover.checks import CHECKS, LeftOutError
from prover.models import Program, programs

MODELS, LEFT_OUT = "models", "left out"


def violation(name: str, examples: int, seed: int, tried: Counter[str], *, steps: int = 7, rows: int = 5) -> str | None:
    """Return a model for which a check does not hold, as small as it was found, and why; None if there is none.

    Args:
        name: The check.
        examples: The number of models to try. Those that are left out do not count, up to ten times as many.
        seed: Of the models, with the name of the check.
        tried: Counts the models, those that are left out, and the calls of each operation.
        steps: The largest number of steps of a model.
        rows: How many of ten steps call a row of the vocabulary.
    """
    check = CHECKS[name]
    drawn = programs(f"{seed} {name}", fits=check.fits, kinds=check.kinds, steps=steps, rows=rows)
    for program in itertools.islice(drawn, 10 * examples):
        try:
            explainers = check.run(program)
        except LeftOutError:
            tried[LEFT_OUT] += 1
            continue
        except Exception:
            return smallest(program, check.run)
        tried[MODELS] += 1
        tried.update(operations_in(program, explainers))
        if tried[MODELS] >= examples:
            break
    return None


def smallest(program: Program, run: Callable[[Program], object]) -> str:
    """Leave out steps of a failing program as long as it fails in the same way; return it, and why it fails."""
    problem = _problem(program, run)
    if problem is None:
        return f"{program}\nfails at the first run only"
    for smaller in _smaller(program):
        found = _problem(smaller, run)
        if found is not None and type(found) is type(problem):
            return smallest(smaller, run)
    return f"{program}\n{type(problem).__name__}: {problem}"


def _problem(program: Program, run: Callable[[Program], object]) -> Exception | None:
    try:
        run(program)
    except LeftOutError:
        return None
    except Exception as error:
        return error
    return None


def _smaller(program: Program) -> Iterator[Program]:
    """The program without one of its steps; what reads its value reads its first operand instead."""
    for left_out in range(len(program.steps) - 1, -1, -1):
        value, source = left_out + 1, program.steps[left_out].reads[0]

        def moved(index: int, value: int = value, source: int = source) -> int:
            return source if index == value else index - (index > value)

        kept = []
        for number, step in enumerate(program.steps):
            if number != left_out:
                shares = None if step.shares in (None, value) else moved(step.shares)
                kept.append(replace(step, reads=tuple(map(moved, step.reads)), shares=shares))
        if kept:
            yield replace(program, steps=tuple(kept))


def operations_in(program: Program, explainers: Sequence[fxlrp.Explainer]) -> list[str]:
    """The operations that the parts of a program call, and those in the graphs of its explainers."""
    called = [step.part.operation for step in program.steps if step.part.operation is not None]
    graphs = [graph for each in explainers for graph in (each.nodes, each.graph_module.graph.nodes)]
    found = (CANONICAL.operation(node) for graph in graphs for node in graph)
    return [*called, *{operation.name for operation in found if operation is not None}]
