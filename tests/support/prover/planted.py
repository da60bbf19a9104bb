"""Faults that fxlrp had, planted again by facts that do not hold, to see that the prover finds them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from unittest import mock

from fxlrp.relevance import average
from fxlrp.rules import Epsilon
from fxlrp.vocabulary import CANONICAL, facts
from prover.aimed import AIMS, Aimed, aimed, holds

LIMIT = 2000


@contextlib.contextmanager
def _row(name: str, **stated: Any) -> Iterator[None]:
    """A row that states other facts."""
    row = replace(CANONICAL.operations[name], **stated)
    spellings = {
        function: replace(spelling, operation=row)
        for function, spelling in CANONICAL._spellings.items()
        if spelling.operation.name == name
    }
    with mock.patch.dict(CANONICAL.operations, {name: row}), mock.patch.dict(CANONICAL._spellings, spellings):
        yield


@contextlib.contextmanager
def statistics_vanish() -> Iterator[None]:
    """The relevance of an element is taken for a multiple of it, which the contribution to a deviation is not."""
    rules: Any = average.RULES[Epsilon]
    changed = {name: replace(rules[name], vanishes=True) for name in ("var", "std", "vector_norm")}
    with mock.patch.dict(rules, changed):
        yield


def einsum_copies() -> contextlib.AbstractContextManager[None]:
    """The result is taken for new memory. It may be a view, on which an in-place change of the operand is seen."""
    return _row("einsum", allocates=True)


def filling_keeps_signs() -> contextlib.AbstractContextManager[None]:
    """The number that replaces NaN is not looked at."""
    return _row("nan_to_num", non_negative=facts.of_operands)


FAULTS: Mapping[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "statistics vanish": statistics_vanish,
    "einsum copies": einsum_copies,
    "filling keeps signs": filling_keeps_signs,
}


def in_turns(seed: int) -> Iterator[Aimed]:
    """Programs for all passes, each in its turns."""
    streams = {name: aimed(name, seed) for name in AIMS}
    most = max(aim.turns for aim in AIMS.values())
    for turn in itertools.count():
        yield from (next(streams[name]) for name, aim in AIMS.items() if turn * aim.turns % most < aim.turns)


def find(fault: str, seed: int = 0) -> tuple[int, Aimed] | None:
    """Look for a planted fault, with a program for each pass in turn.

    Returns:
        The number of programs that it took, and the one that shows the fault; None if it is not found in time.
    """
    streams = in_turns(seed)
    with FAULTS[fault]():
        for number, tried in enumerate(itertools.islice(streams, LIMIT)):
            try:
                holds(tried)
            except Exception:
                found = number + 1, tried
                break
        else:
            return None
    # A program that fails without the fault, too, does not show it.
    holds(tried)
    return found
