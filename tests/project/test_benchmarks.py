"""The benchmark suite works: it measures a tiny model and writes its page. How long anything takes is not tested."""

from __future__ import annotations

import copy
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import __main__ as command
from benchmarks import checks, models, peers, plan, report
from benchmarks.explainers import PRESETS, RECIPES, Subject, build, reference
from benchmarks.memory import peak_bytes
from benchmarks.results import Record, Results
from benchmarks.settings import Settings
from benchmarks.timing import interleaved
from benchmarks.worker import reason
from helpers import ROOT


def kilobytes(count: int) -> Tensor:
    return torch.empty(count * 1000, dtype=torch.uint8)


def test_peak_of_memory_is_exact() -> None:
    before = kilobytes(5000)

    def call() -> Tensor:
        first = kilobytes(4000)
        second = kilobytes(8000)
        del first
        kilobytes(3000)  # gone at once: 8 + 3 is less than 4 + 8
        second.add_(1)
        return kilobytes(2000)

    peak, result = peak_bytes(call)
    assert peak == 12_000_000
    assert (len(before), len(result)) == (5_000_000, 2_000_000)


@pytest.mark.slow
def test_peak_of_memory_counts_what_autograd_saves() -> None:
    x = torch.ones(250_000, requires_grad=True)  # a megabyte

    def gradient_of(steps: int) -> Callable[[], Tensor]:
        def call() -> Tensor:
            y = x
            for _ in range(steps):
                y = y.exp()  # saves its result
            return torch.autograd.grad(y.sum(), x)[0]

        return call

    peaks = [peak_bytes(gradient_of(steps))[0] for steps in (4, 5, 8)]
    assert [peak - peaks[0] for peak in peaks] == [0, 1_000_000, 4_000_000]


def test_peak_of_a_call_that_only_frees_is_zero() -> None:
    held = [kilobytes(1000)]
    assert peak_bytes(held.clear)[0] == 0


def test_rounds_are_interleaved() -> None:
    order: list[str] = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 3
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def plain() -> nn.Module:
    """No skip connection: those zennit needs canonizers for."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*convolutions, nn.Flatten(1), nn.Linear(6 * 36, 5)).eval().requires_grad_(False)


@pytest.mark.parametrize("preset", PRESETS)
def test_contestants_explain_the_same(preset: str) -> None:
    settings = Settings()
    images = models.images(2, 16, settings)
    for model, contestants in ((models.build("tiny", 16, settings), ["fxlrp"]), (plain(), ["fxlrp", "zennit"])):
        subject = Subject(model, images, preset)
        state = copy.deepcopy(model.state_dict())
        expected = reference(subject)
        assert expected.isfinite().all() and expected.abs().max() > 1e-4
        for name in contestants:
            assert checks.difference(build(name, subject)(), expected) < 1e-4
        assert checks.optimized_in_float64(subject) < 1e-9
        assert 0 < checks.rounding(subject, expected) < 1e-2
        torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


def test_gradient_is_that_of_the_largest_logits() -> None:
    model, images = plain(), models.images(3, 16, Settings())
    result = build("gradient", Subject(model, images, ""))()
    x = images.clone().requires_grad_()
    for index, logits in enumerate(model(x)):
        (expected,) = torch.autograd.grad(logits.max(), x, retain_graph=True)
        torch.testing.assert_close(result[index], expected[index])


def test_a_peer_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "autolrp", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        peers.autolrp(plain(), models.images(1, 16, Settings()), "epsilon", {})
    assert "autolrp" in reason(caught.value)


def test_reasons_are_short_and_hold_no_paths() -> None:
    assert reason(peers.NotOffered("has no flat rule")) == "has no flat rule"
    long = RuntimeError("in /home/someone/checkout/model.py:3,\n  at /usr/lib/a b: " + "word " * 100)
    text = reason(long)
    assert "home" not in text and "usr" not in text and "model.py:3" in text
    assert text.startswith("RuntimeError: ") and len(text) < 170 and text.endswith("word …")


def test_plan_covers_every_model_and_preset_in_one_process_per_model() -> None:
    jobs = plan.jobs(plan.Plan())
    assert all(len({case.model for case in cases}) == 1 for cases in jobs.values())
    assert all({case.model for case in jobs[model]} == {model} for model in plan.MODELS)
    for model in plan.MODELS:
        cases = [case for case in jobs[model] if case.series in ("gradient", "presets")]
        assert [case.preset for case in cases] == [None, *PRESETS]
        assert all(case.contestants[0] == "gradient" for case in cases)
        assert all({"fxlrp", "zennit", "captum", "autolrp"} <= set(case.contestants) for case in cases[1:])
    assert set(plan.RECIPES) <= set(RECIPES)
    growth = [case for cases in jobs.values() for case in cases]
    assert [case.batch for case in growth if case.series == "batch"] == [1, 2, 4, 8, 16, 32]
    sizes = [case.size for case in growth if case.series == "size"]
    assert (sizes[0], sizes[-1]) == (112, 448)
    depths = [case.model for case in growth if case.series == "depth"]
    assert (depths[0], depths[-1]) == ("resnet18", "resnet152")


def record(**changes: Any) -> Record:
    """What was measured of a model, in round numbers."""
    entries = {
        "gradient": {"seconds": [1.0, 2.0, 1.0], "peak": 100},
        "fxlrp": {"seconds": [3.0, 8.0, 2.0], "peak": 150, "difference": 1e-4},
        "zennit": {"seconds": [5.0, 5.0, 5.0], "peak": 300, "difference": 0.5},
        "captum": {"failure": "it cannot"},
        "autolrp": {"failure": "has no such rule", "not_offered": True},
    }
    case = plan.Case("presets", "tiny", "epsilon", 2, 16, tuple(entries))
    fields = {"settings": {"dtype": "float32"}, "rounding": 1e-6, "float64": 1e-12, "entries": entries}
    return Record(case, fields | changes)


def test_numbers_are_medians_of_ratios_within_a_round() -> None:
    assert record().time("fxlrp") == 3.0  # of 3, 4 and 2
    assert record().memory("fxlrp") == 1.5
    assert record().time("captum") is None
    assert record().failures() == {"captum": "it cannot", "autolrp": "has no such rule"}


def test_a_wrong_result_is_found() -> None:
    def entries(difference: float) -> dict[str, Any]:
        return {"fxlrp": {"difference": difference}}

    assert not list(record().wrong())
    assert "fxlrp differs by 2e-03" in next(record(entries=entries(2e-3)).wrong())
    assert not list(record(entries=entries(2e-3), rounding=1e-3).wrong())
    assert not list(record(entries=entries(2e-3), settings={"dtype": "bfloat16"}).wrong())
    assert list(record(entries=entries(float("nan"))).wrong())
    assert "in float64" in next(record(float64=1e-4).wrong())


def test_the_page_marks_what_is_not_comparable() -> None:
    results = Results({"machine": "a machine"}, [record(float64=1e-4)])
    page = report.page(results, "picture.png")
    assert "a machine" in page and "(picture.png)" in page and report.MARK not in page
    times = page.partition("## Time")[2].partition("## Memory")[0]
    (row,) = [line for line in times.splitlines() if line.startswith("| tiny")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["tiny", "epsilon", "3.00", "5.00 †", "fails", "no rule"]
    assert "it cannot" in page and "do not pass" in page


def test_depth_grows_along_its_table() -> None:
    def deep(model: str) -> Record:
        case = plan.Case("depth", model, "epsilon", 1, 16, ("gradient",))
        return Record(case, {"entries": {"gradient": {"seconds": [1.0], "peak": 1}}})

    results = Results({}, [deep("resnet152"), deep("resnet18"), deep("resnet50")])
    assert [record.case.model for record in results.of("depth")] == ["resnet18", "resnet50", "resnet152"]


@pytest.mark.slow
def test_a_quick_run_writes_the_page(tmp_path: Path) -> None:
    folders = ["--results", str(tmp_path / "results"), "--docs", str(tmp_path / "docs")]
    status = command.main(["--quick", "--presets", "epsilon_gamma_box", *folders])
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert status == 0, page
    assert "Every timed result of fxlrp passes." in page
    assert f"torch {torch.__version__}" in page
    for secret in (platform.node(), str(tmp_path), str(ROOT)):
        assert secret not in page
    titles = ("## Time", "## Memory", "## Compile time", "## How cost grows with depth")
    of_transformers = (tmp_path / "docs" / "benchmarks-transformers.md").read_text()
    for title in titles:
        assert f"{title}\n" in page and f"{title}\n" not in of_transformers
    for title in ("## Time and memory", "## How long they take to compile"):
        assert title in of_transformers and title not in page
    for picture in ("benchmarks.png", "benchmarks-lengths.png"):
        assert (tmp_path / "docs" / picture).read_bytes().startswith(b"\x89PNG")

    # The page can be written again of what was measured, and other results added.
    assert command.main(["--report-only", *folders]) == 0
    assert (tmp_path / "docs" / "benchmarks.md").read_text() == page
    before = Results.read(tmp_path / "results", ())
    less = ["--recipes", "--no-scaling", "--no-lengths"]
    assert command.main(["--quick", "--presets", "epsilon", *less, "--keep", *folders]) == 0
    after = Results.read(tmp_path / "results", ())
    assert len(after.of("presets")) == len(before.of("presets")) + 1
    assert len(after.of("batch")) == len(before.of("batch")) > 0


@pytest.mark.slow
def test_a_process_that_dies_is_a_result(tmp_path: Path) -> None:
    nothing = plan.Case("gradient", "no_such_model", None, 1, 16, ("gradient",))
    command.run("nothing", [nothing], Settings(), tmp_path)
    results = Results.read(tmp_path, ())
    assert [record.failures() for record in results.of("gradient")] == [{"gradient": "its process ended with status 1"}]
    assert "its process ended with status 1" in report.page(results, "picture.png")
