"""Rows of a table on the colors of their relevance."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import numpy
import pytest
import torch

from fxlrp import show
from fxlrp.errors import InputError


def styled(html: str) -> list[tuple[str, str]]:
    """The background and the content of every cell; the last of several backgrounds prevails."""
    cells = re.findall(r'<td style="([^"]*)">(.*?)</td>', html)
    return [(re.findall(r"background:(#\w{6})", style)[-1], content) for style, content in cells]


def test_a_row_has_a_line_for_each_value() -> None:
    shown = show.table([3, "b<i>", 0.25], torch.tensor([1.0, -1.0, 0.0]), columns=["x", "y&z", "w"])
    assert styled(shown.html)[2::3] == [("#a50f15", "+1"), ("#08519c", "−1"), ("#ffffff", "0")]
    assert {color for index, (color, _) in enumerate(styled(shown.html)) if index % 3 != 2} == {"#ffffff"}
    assert "b&lt;i&gt;" in shown.html and "y&amp;z" in shown.html and "<i>" not in shown.html
    lines = [line.split() for line in shown.text.splitlines()]
    assert lines[2:5] == [["x", "3", "+1", "+" * 24], ["y&z", "b<i>", "-1", "-" * 24], ["w", "0.25", "0"]]
    assert lines[-1][:4] == ["full", "color", "at", "±1"]
    assert shown._repr_html_() == shown.html and str(shown) == shown.text


def test_several_rows_have_cells() -> None:
    values, relevance = torch.tensor([[1.5, -2.0], [3.0, 4.0]]), torch.tensor([[0.5, -1.0], [1.0, 0.0]])
    shown = show.table(values, relevance, columns=["<a>", "b"], rows=["first", "</td>"])
    assert [color for color, _ in styled(shown.html)] == ["#fa7d5d", "#08519c", "#a50f15", "#ffffff"]
    contents = [re.sub("<[^>]*>", " ", content).split() for _, content in styled(shown.html)]
    assert contents == [["1.5", "+0.5"], ["−2", "−1"], ["3", "+1"], ["4", "0"]]
    assert "&lt;/td&gt;" in shown.html and "&lt;a&gt;" in shown.html
    assert "1.5 (+0.5)" in shown.text and shown.scale == 1


@pytest.mark.parametrize("values", [[[1.0, 2.0]], torch.tensor([1.0, 2.0]), numpy.array([[1.0, 2.0]]), (1, 2)])
def test_every_form_of_a_row(values: Any) -> None:
    text = show.table(values, torch.tensor([[0.5, -1.0]], requires_grad=True)).text
    assert [line.split()[:3] for line in text.splitlines()[2:4]] == [["0", "1", "+0.5"], ["1", "2", "-1"]]


def test_names_may_be_an_array() -> None:
    names: Any = numpy.array(["age", "gain"])
    lines = show.table([1, 2], [1.0, 2.0], columns=names).text.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["age", "gain"]


def test_only_numbers_have_minus_signs() -> None:
    values = [date(2024, 1, 5), "a-b", -3, numpy.float32(-0.5), torch.tensor(-4)]
    contents = [content for _, content in styled(show.table(values, torch.zeros(5)).html)]
    assert contents[1::3] == ["2024-01-05", "a-b", "−3", "−0.5", "−4"]


def test_control_characters_are_escaped() -> None:
    assert "\x1b" not in show.table(["\x1b[0m"], [1.0], columns=["\x1b"]).text


WRONG: dict[str, tuple[tuple[Any, Any, dict[str, Any]], str]] = {
    "values": (([1.0], [1.0, 2.0], {}), "values has 1 rows of 1 values, and relevance 1 rows of 2"),
    "ragged": (([[1.0], [1.0, 2.0]], torch.zeros(2, 2), {}), "values has 2 rows of 1 or 2 values"),
    "text": (("ab", [1.0, 2.0], {}), "values='ab' is not a row"),
    "shape": (([1.0], torch.zeros(1, 1, 1), {}), r"is not \(columns,\) or \(rows, columns\)"),
    "NaN": (([1.0], [float("nan")], {}), "has 1 NaN"),
    "columns": (([1.0], [1.0], {"columns": ["a", "b"]}), "columns has 2 names, and relevance 1 columns"),
    "rows": (([1.0], [1.0], {"rows": []}), "rows has 0 names, and relevance 1 rows"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tables_are_errors(name: str) -> None:
    (values, relevance, options), message = WRONG[name]
    with pytest.raises(InputError, match=message):
        show.table(values, relevance, **options)
