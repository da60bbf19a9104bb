"""The benchmark of runtimes: its table, its page, and a small model from the export to the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.runtimes import __main__ as command
from benchmarks.runtimes.measure import Measured, timed
from benchmarks.runtimes.report import BEGIN, END, ordered, table, with_table
from fxlrp.errors import InputError


def test_the_table_has_ratios_of_times() -> None:
    found = [
        Measured("vit_b_16", "aoti", 8, 1e-6, 2e-6, 0.9, 1.0, 0.3),
        Measured("resnet50", "onnx", 1, 1e-5, 2e-5, 0.1, 0.2, 0.05),
    ]
    assert [each.model for each in ordered(found)] == ["resnet50", "vit_b_16"]
    assert table(found).splitlines()[2:] == [
        "| resnet50 | onnx | 1 | 1.0e-05 | 2.0e-05 | 100 | 0.50 | 2.0 |",
        "| vit_b_16 | aoti | 8 | 1.0e-06 | 2.0e-06 | 900 | 0.90 | 3.0 |",
    ]


def test_calls_are_interleaved() -> None:
    called: list[str] = []
    timed({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 2)
    assert called == ["a", "b", "a", "b"]


def test_a_page_without_marks_is_an_error() -> None:
    with pytest.raises(InputError, match="needs the marks"):
        with_table("# Serving", [])


@pytest.mark.slow
def test_the_command_measures_and_writes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results.jsonl"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    arguments = ["--models", "tiny", "--runtimes", "onnx", "--size", "16", "--rounds", "1"]
    assert command.main([*arguments, "--results", str(results), "--page", str(page)]) == 0
    found = command.read(results)
    assert [each.batch for each in found] == [1, 8]
    assert all(each.error < 1e-4 and each.eager_error < 1e-4 for each in found)
    written = page.read_text()
    assert written.startswith("before\n") and written.endswith("after\n") and "old" not in written
    assert table(found) in written and table(found) in capsys.readouterr().out
