"""Programs around which passes apply: the same relevance with the pass and without it."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from prover.aimed import AIMS, aimed, holds

EXAMPLES = 4
# What takes long by itself: a compilation by torch.compile for each program.
SLOW = [name for name, aim in AIMS.items() if not aim.turns]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.repeats if name in SLOW else ()) for name in AIMS]
)
def test_a_pass_changes_nothing_where_it_applies(name: str) -> None:
    counts = Counter[bool | None]()
    for each in itertools.islice(aimed(name, 1), 5 * EXAMPLES):
        counts[holds(each)] += 1
        if counts[True] and counts.total() >= EXAMPLES:
            break
    assert counts[True], f"the pass applied to none of {counts.total()} programs"


@pytest.mark.repeats
@pytest.mark.parametrize("name", [name for name in AIMS if name not in SLOW])
def test_a_pass_applies_in_many_programs(name: str) -> None:
    counts = Counter(holds(each) for each in itertools.islice(aimed(name, 2), 60))
    assert counts[True] >= 20, f"the pass applied to {counts[True]} of 60 programs"
