"""Wrong arguments of public functions: a right answer, or an error of fxlrp's own; ``make fuzz`` tries all of them."""

from __future__ import annotations

import copy
import os
import random
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fuzz import subjects
from fuzz.__main__ import CALLS, several, singles
from fuzz.judge import judged
from fxlrp.errors import FxlrpError

# For each function. FXLRP_FUZZ is the number of all calls of each function.
COUNT = int(os.environ.get("FXLRP_FUZZ", "8"))
SLOW = ("export", "autograd")
GIGABYTES = 4


@pytest.fixture(autouse=True)
def limited_memory() -> Iterator[None]:
    """A call that needs gigabytes fails, and does not end the process or that of others."""
    if sys.platform != "linux":
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + GIGABYTES * 2**30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("name", [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in CALLS])
def test_wrong_arguments(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call = CALLS[name]
    one = list(singles(call))
    chosen = random.Random(name).sample(one, min(COUNT, len(one)))
    for changes in (*chosen, *several(call, seed=0, count=max(1, COUNT // 4))):
        verdict = judged(call, changes)
        assert not verdict.fault, f"{changes}: {verdict.fault}"


@pytest.mark.parametrize("name", CALLS)
def test_the_arguments_that_are_changed_are_right_before(name: str, tmp_path: Path) -> None:
    call = CALLS[name]
    try:
        call.function(**call.arguments())
    except FxlrpError as error:
        pytest.fail(str(error))
    except call.also:
        assert "missing" in str(call.arguments().values()), "a file that does not exist"


def test_an_explainer_is_usable_after_wrong_calls() -> None:
    explain, model = subjects.of_features(), subjects.dense()
    weights, expected = copy.deepcopy(model.state_dict()), explain(subjects.x(), target=1)
    for name in ("forward, features", "debug, features", "condition"):
        for changes in several(CALLS[name], seed=1, count=40):
            judged(CALLS[name], changes)
    torch.testing.assert_close(explain(subjects.x(), target=1), expected, rtol=0, atol=0)
    torch.testing.assert_close(explain._model.state_dict(), weights, rtol=0, atol=0)
