"""Every setting of every row, alone in a model: LRP-0 is the gradient times the input, and relevance is conserved."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prover.checks import CHECKS, LeftOutError
from prover.models import Program, Step
from prover.parts import Part
from prover.rows import WRITABLE, Way, part_of, settings_of


def parts(name: str) -> Iterator[Part]:
    """The row with each of its settings; for the whole batch where it can be, as that has more dimensions to reduce."""
    for number in range(len(settings_of(name))):
        ways = (part_of(name, Way(number, batch)) for batch in ("mixed", "first"))
        yield from [part for part in ways if part is not None][:1]


@pytest.mark.sampled(2, "name")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", ["LRP-0 = gradient x input", "conservation"])
@pytest.mark.parametrize("name", [name for name in WRITABLE if settings_of(name)])
def test_every_setting(name: str, check: str) -> None:
    """Where the check is defined for it, and values are moderate."""
    for part in filter(CHECKS[check].fits, parts(name)):
        try:
            CHECKS[check].run(Program("image", (Step(part, (0,) * len(part.reads)),), seed=1))
        except LeftOutError:
            continue


def test_the_checks_are_defined_for_most_rows() -> None:
    found = [any(map(CHECKS["LRP-0 = gradient x input"].fits, parts(name))) for name in WRITABLE]
    assert sum(found) > len(found) / 2
