"""The statistics of the report on round numbers, and a quick run of the whole suite."""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence import __main__ as command
from benchmarks.evidence import report
from benchmarks.evidence.plan import QUICK, SEEDS, Plan, cells
from benchmarks.evidence.problems import PROBLEMS
from benchmarks.evidence.results import CellResults, Comparison, Results, Spread, mean
from helpers import ROOT


def record(problem: str, network: str, seed: int, **ranks: float | str | None) -> dict[str, Any]:
    """What is measured of a cell: for each method a rank, or the reason why it does not run."""
    methods = {}
    for name, value in ranks.items():
        entry = {"mass": 0.5, "rank": value, "unusable": 0}
        methods[name] = {"reason": value} if isinstance(value, str) else {"absolute": entry, "positive": entry}
    fields = {"cell": {"problem": problem, "network": network, "seed": seed}, "seconds": 1.0, "threshold": 0.9}
    return {**fields, "accuracy": 0.95, "methods": methods} if ranks else {**fields, "accuracy": 0.5}


def cell(problem: str, network: str, *ranks: dict[str, Any]) -> CellResults:
    return CellResults(
        PROBLEMS[problem], network, tuple(record(problem, network, seed, **rank) for seed, rank in enumerate(ranks))
    )


def test_spread_is_the_standard_error_of_the_mean() -> None:
    spread = Spread.of([1.0, 2.0, 3.0])
    assert spread.mean == 2.0 and spread.error == pytest.approx(1 / math.sqrt(3))
    assert Spread.of([0.4]) == Spread(0.4, None)


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([0.2, 0.3, 0.1], "better"),
        ([-0.2, -0.3, -0.1], "worse"),
        ([0.2, -0.2, 0.1], "tied"),
        ([0.0, 0.0], "tied"),
        ([0.004, 0.004], "tied"),
        ([0.1], "better"),
    ],
)
def test_a_difference_counts_beyond_one_standard_error(values: list[float], outcome: str) -> None:
    assert Spread.of(values).outcome == outcome


def test_methods_are_compared_seed_by_seed() -> None:
    # Each is ahead by the same 0.1 although seeds differ by more: the spread of the difference counts.
    found = cell("negation", "lstm", {"default": 0.9, "epsilon": 0.8}, {"default": 0.3, "epsilon": 0.2})
    assert found.difference("default", "epsilon").outcome == "better"
    assert found.spread("default").error == pytest.approx(0.3)


def results() -> Results:
    """Three cells that are reported, one that serves to choose, and one whose networks are not right."""
    return Results(
        {"machine": "a machine"},
        (
            cell("rigid white", "cnn", {"default": 0.9, "epsilon": 0.6}, {"default": 0.8, "epsilon": 0.6}),
            cell("negation", "lstm", {"default": 0.5, "epsilon": 0.8}, {"default": 0.5, "epsilon": 0.9}),
            cell("recall", "lstm", {"default": 0.5, "epsilon": "it cannot"}, {"default": 0.5, "epsilon": "it cannot"}),
            cell("rigid white", "lstm", {"default": "it cannot", "epsilon": 0.5}),
            cell("keyword", "lstm", {"default": 0.1, "epsilon": 0.9, "gamma 0.5": 0.9}),
            cell("alternating", "dense_graph", {}, {}),
        ),
    )


def test_halves_are_not_mixed() -> None:
    assert results().compare("report", "default", "epsilon") == Comparison(better=1, tied=0, worse=1)
    assert results().compare("choose", "default", "epsilon") == Comparison(better=0, tied=0, worse=1)
    assert mean(results().of("report"), "epsilon") == pytest.approx((0.6 + 0.85 + 0.5) / 3)
    assert mean(results().of("report"), "gamma 0.5") is None


def test_ahead_counts_ties() -> None:
    assert Comparison(1, 2, 1).ahead == 0.75
    assert math.isnan(Comparison(0, 0, 0).ahead)


def section(page: str, title: str) -> str:
    return page.partition(f"{title}\n")[2].partition("\n## ")[0]


def rows(text: str, part: str) -> list[list[str]]:
    lines = [line.strip() for line in text.splitlines() if line.startswith("|") and part in line]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def test_the_page_lists_losses_and_what_was_left_out() -> None:
    page = report.page(results(), "evidence.png")
    assert "(evidence.png)" in page and "a machine" in page
    losing = rows(section(page, "### Where it loses"), "negation")
    assert losing == [["tokens, negation, lstm", "0.50 ± 0.00", "epsilon, 0.85 ± 0.05", "1/1", ""]]
    (rigid,) = rows(section(page, "### Where it loses"), "rigid")
    assert rigid[:2] == ["XAI-TRIS, rigid, white noise, lstm", "does not run"]
    assert "epsilon (50% of the cells, wanted 60%)" in section(page, "## The default preset")
    left_out = section(page, "## What was not explained")
    assert rows(left_out, "alternating") == [["graph, alternating cycle, dense_graph", "0/2", "50%", "90%"]]
    images, tokens = ["default", "image: lstm", "it cannot"], ["epsilon", "tokens: lstm", "it cannot"]
    assert sorted(rows(left_out, "it cannot")) == [images, tokens]
    cells_of_page = section(page, "## Every cell")
    assert rows(cells_of_page, "`default`")[0] == ["`default`", "0.85 ± 0.05", "–"]
    assert "keyword" not in cells_of_page and "–" in cells_of_page


def test_a_template_without_a_section_is_an_error() -> None:
    with pytest.raises(ValueError, match="no place for the section 'picture'"):
        report.page(results(), "evidence.png", template="# Evidence\n")


def test_halves_share_no_seed_and_every_cell_is_in_the_plan() -> None:
    assert not set(SEEDS["report"]) & set(SEEDS["choose"])
    planned = list(cells(Plan(seeds=3)))
    assert len(planned) == len(set(planned)) == 3 * sum(len(problem.networks) for problem in PROBLEMS.values())
    assert all(cell.seed in SEEDS[PROBLEMS[cell.problem].half] for cell in planned)
    first = planned[: len(planned) // 3]
    assert len({(cell.problem, cell.network) for cell in first}) == len(first)  # every cell before the second seed


def test_there_are_not_more_seeds_than_planned() -> None:
    report_seeds = {cell.seed for cell in cells(Plan(seeds=99)) if PROBLEMS[cell.problem].half == "report"}
    assert report_seeds == set(SEEDS["report"])


def test_a_quick_run_writes_the_page(tmp_path: Path) -> None:
    folders = ["--results", str(tmp_path / "results"), "--docs", str(tmp_path / "docs")]
    assert command.main(["--quick", *folders]) == 0
    page = (tmp_path / "docs" / "evidence.md").read_text()
    for secret in (platform.node(), str(tmp_path), str(ROOT)):
        assert secret not in page
    assert (tmp_path / "docs" / "evidence.png").read_bytes().startswith(b"\x89PNG")
    found = Results.read(tmp_path / "results")
    assert len(found.cells) == len(list(cells(QUICK))) / QUICK.seeds
    table = section(page, "## All methods").partition("By network")[0]
    summary = {row[0]: row for row in rows(table, "|")}
    # What decides is known: LRP finds it on these problems, and noise does not.
    assert float(summary["`default`"][1]) > 2 * float(summary["random"][1])
    # The gamma rule of the published preset needs bounds, which tokens do not have.
    assert "the vectors of tokens have no bounds" in page

    # The page can be written again, and what is measured is not measured again.
    assert command.main(["--report-only", *folders]) == 0
    assert (tmp_path / "docs" / "evidence.md").read_text() == page
    assert command.main(["--quick", "--keep", *folders]) == 0
    assert (tmp_path / "docs" / "evidence.md").read_text() == page
