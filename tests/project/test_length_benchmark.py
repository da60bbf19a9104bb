"""The benchmark of transformers over lengths: its contestants explain the same, and its plan is as documented."""

from __future__ import annotations

import copy

import pytest
import torch

from benchmarks import checks, lengths, plan, token_models
from benchmarks.peers import NotOffered
from benchmarks.results import Record, Results
from benchmarks.settings import Settings
from benchmarks.token_models import Sequence


def short(name: str = "tiny_language_model", batch: int = 2, length: int = 6) -> Sequence:
    return token_models.build(name, batch, length, Settings(dtype="float64"))


@pytest.mark.parametrize("preset", ["attnlrp", "cplrp"])
def test_fxlrp_explains_what_the_detached_model_does(preset: str) -> None:
    sequence = short()
    before = copy.deepcopy(sequence.model.state_dict())
    expected = lengths.detached(sequence, preset)()
    assert expected.shape == (2, 6) and expected.abs().min() > 1e-6
    assert checks.difference(lengths.relevance(sequence, preset)(), expected) < 1e-3  # the presets have a stabilizer
    torch.testing.assert_close(sequence.model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("preset", ["attnlrp", "cplrp"])
def test_lxt_explains_what_the_detached_model_does(preset: str) -> None:
    pytest.importorskip("lxt", reason="lxt is no dependency of the tests")
    sequence = token_models.build("tiny_language_model", 2, 6, Settings())
    expected = lengths.detached(sequence, preset)()
    assert checks.difference(lengths.lxt(sequence, preset)(), expected) < 1e-4


def test_gradient_is_that_of_the_last_position() -> None:
    sequence = short(batch=1)
    result = lengths.gradient(sequence)()
    x = sequence.embedded().requires_grad_()
    model = sequence.model
    assert isinstance(model, token_models.LanguageModel)
    (expected,) = torch.autograd.grad(model.from_embedded(x)[0, -1].max(), x)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(model(sequence.inputs[0])[:, -1], sequence.explained(sequence.embedded()))


def test_encoder_ignores_padding() -> None:
    sequence = short("encoder", batch=3)
    ids, keep = sequence.inputs
    assert not keep.all() and keep.any(1).all()
    changed = torch.where(keep, ids, (ids + 1) % token_models.VOCABULARY)
    torch.testing.assert_close(sequence.model(changed, keep), sequence.model(ids, keep))
    relevance = lengths.relevance(sequence, "attnlrp")()
    assert (relevance[~keep] == 0).all() and (relevance[keep] != 0).all()
    with pytest.raises(NotOffered):
        lengths.detached(sequence, "attnlrp")


def test_plan_of_the_lengths() -> None:
    cases = [case for cases in plan.jobs(plan.Plan(models=(), growth=None)).values() for case in cases]
    measured = {(case.model, case.preset, case.size) for case in cases if case.series == "length"}
    for preset in ("attnlrp", "cplrp"):
        assert {("language_model", preset, length) for length in (128, 512, 2048, 8192)} <= measured
    assert {("vit_b_16", "default", 196), ("encoder", "attnlrp", 256)} <= measured
    assert all(case.contestants[:2] == ("gradient", "fxlrp") for case in cases if case.series == "length")
    assert {case.unit for case in cases} == {"tokens", "patches"}
    assert not plan.jobs(plan.Plan(models=(), growth=None, lengths=None))


def test_lengths_are_in_order() -> None:
    """The files of the results are in the order of their names, in which 2048 comes before 512."""

    def record(length: int, preset: str) -> Record:
        case = plan.Case("length", "language_model", preset, 1, length, ("gradient",))
        return Record(case, {"entries": {"gradient": {"seconds": [1.0], "peak": 1}}})

    results = Results({}, [record(2048, "attnlrp"), record(2048, "cplrp"), record(512, "attnlrp")])
    found = [(each.case.preset, each.case.size) for each in results.of("length")]
    assert found == [("attnlrp", 512), ("attnlrp", 2048), ("cplrp", 2048)]


@pytest.mark.slow
def test_time_of_capture() -> None:
    times = lengths.capture_seconds(short(batch=1), "attnlrp", 1)
    assert list(times) == ["torch.export", "fxlrp, export", "fxlrp"]
    assert all(len(each) == 1 and each[0] > 0 for each in times.values())
