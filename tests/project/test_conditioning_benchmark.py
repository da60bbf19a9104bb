"""The benchmark of conditioning: its numbers against values by hand, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.conditioning import __main__ as command
from benchmarks.conditioning.measure import Conditioning, cosines, errors
from benchmarks.conditioning.report import BEGIN, END, missed, table, with_table
from fxlrp.errors import InputError

WIDE = torch.tensor([[[3.0, 4.0]], [[1.0, 0.0]]], dtype=torch.float64)


def result(network: str, preset: str, single: float) -> Conditioning:
    return Conditioning(network, preset, single, 0.5, 0.9, 1.0, 2.0)


def test_errors_and_cosines_of_each_image() -> None:
    relevance = torch.tensor([[[3.0, 3.0]], [[0.0, 1.0]]])
    assert errors(relevance, WIDE).tolist() == pytest.approx([1 / 5, 2**0.5])
    assert cosines(relevance, WIDE).tolist() == pytest.approx([21 / (18**0.5 * 5), 0.0])


def test_the_goal_is_that_of_the_default_preset() -> None:
    found = [result("vgg16", "epsilon", 0.1), result("vgg16", "default", 2e-3), result("resnet50", "default", 1e-4)]
    assert [each.network for each in missed(found)] == ["vgg16"]
    assert [each.network for each in missed([result("vgg16", "default", float("nan"))])] == ["vgg16"]


def test_a_page_without_marks_is_an_error() -> None:
    with pytest.raises(InputError, match="needs the marks"):
        with_table("# Conditioning", [])


def test_the_command_measures_and_writes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results.jsonl"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    arguments = ["--networks", "tiny", "--presets", "default", "epsilon", "--size", "16"]
    arguments += ["--results", str(results), "--page", str(page)]
    assert command.main(arguments) == 0
    found = command.read(results)
    assert [each.preset for each in found] == ["default", "epsilon"]
    assert all(0 < each.single < 1e-4 < each.half for each in found)
    written = page.read_text()
    assert written.startswith("before\n") and written.endswith("after\n") and "old" not in written
    assert table(found) in written and table(found) in capsys.readouterr().out
    # Results that are there are not measured again.
    assert command.main([*arguments, "--keep"]) == 0
    assert len(results.read_text().splitlines()) == 2
