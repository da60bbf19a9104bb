"""Tables as HTML for notebooks: the same cells as the text, escaped, and the text itself unchanged."""

from __future__ import annotations

import copy
import pickle
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.printing.html import Table, html_table
from oracles import random


class Parsed(HTMLParser):
    """The cells of a table, the text below it, and every tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.notes: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._in: list[str] = []
        self.feed(html)
        self.close()
        assert not self._in, "a tag is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if dict(attrs).get("class") == "fxlrp-notes":
            self.notes.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._in.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._in and self._in[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        elif self.notes and self._in and self._in[-1] == "div":
            self.notes[-1] += data


def as_text(html: str) -> list[str]:
    """Every word of the table and of the lines below it, in order."""
    parsed = Parsed(html)
    return " ".join([cell for row in parsed.rows for cell in row] + parsed.notes).split()


def words(text: str) -> list[str]:
    """Every word of a printed table, without its ruler."""
    return [word for word in text.split() if set(word) != {"-"}]


class Odd(nn.Module):
    """A model whose modules have names that HTML would read as tags."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"<b>": nn.Linear(4, 8), "a&b": nn.Linear(8, 3)})

    def forward(self, x: Tensor) -> Tensor:
        return self.layers["a&b"](self.layers["<b>"](x).relu())


@pytest.fixture(scope="module")
def explain() -> fxlrp.Explainer:
    torch.manual_seed(0)
    return fxlrp.compile(Odd().eval(), "epsilon", debug=True, example_inputs=torch.ones(1, 4))


def shown(explain: fxlrp.Explainer, what: str) -> Any:
    x = random(2, 4).float()
    found = {
        "explainer": lambda: explain,
        "table": lambda: explain.table(constants=True),
        "balance": lambda: explain.balance(x, target=1),
        "balance table": lambda: explain.balance(x, target=1).table(1e-3),
        "debug": lambda: explain.debug(x, target=1),
        "stages": lambda: explain.stages,
        "checks": lambda: explain.check_stages(x),
    }
    return found[what]()


WHAT = ("explainer", "table", "balance", "balance table", "debug", "stages", "checks")


@pytest.mark.parametrize("what", WHAT)
def test_html_says_what_is_printed(explain: fxlrp.Explainer, what: str) -> None:
    table = shown(explain, what)
    assert sorted(words(str(table))) == sorted(as_text(table._repr_html_()))


def test_a_balance_without_leaks_has_no_rows(explain: fxlrp.Explainer) -> None:
    table = explain.balance(random(2, 4).float(), target=1).table(100)
    assert not Parsed(table.html).rows and table == f"no node leaks\n\n{Parsed(table.html).notes[0]}"


@pytest.mark.parametrize("what", WHAT)
def test_names_are_escaped_and_nothing_runs_or_loads(explain: fxlrp.Explainer, what: str) -> None:
    html = shown(explain, what)._repr_html_()
    tags = Parsed(html).tags
    assert {tag for tag, _ in tags} <= {"style", "div", "table", "thead", "tbody", "tr", "th", "td"}
    assert all(set(attributes) <= {"class", "style"} for _, attributes in tags)
    assert "url(" not in html and "@import" not in html


def test_the_names_of_modules_are_in_the_tables(explain: fxlrp.Explainer) -> None:
    for table in (explain, shown(explain, "balance")):
        modules = [row[2] for row in Parsed(table._repr_html_()).rows]
        assert "layers.<b>" in modules and "layers.a&b" in modules


def test_an_explainer_that_is_not_captured_is_a_line() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu() if x.sum() > 0 else x

    explain = fxlrp.compile(Net().eval())
    assert explain._repr_html_() == "<pre>Explainer(Net, captured at the first call)</pre>"


def test_rows_without_relevance_are_faint() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x * torch.sigmoid(y)

    explain = fxlrp.compile(Net().eval(), constants=["y"])
    parsed = Parsed(explain.table(constants=True)._repr_html_())
    classes = [attributes.get("class") for tag, attributes in parsed.tags if tag == "tr"]
    assert [row[-1] for row in parsed.rows[1:]] == ["yes" if each is None else "no" for each in classes[1:]]
    assert "f" in classes


def test_a_table_is_its_text_and_survives_copies() -> None:
    table = Table("a\n-\n1", html_table(["a"], [["1"]]))
    assert isinstance(table, str) and table == "a\n-\n1" and str(table) == table
    for other in (copy.copy(table), copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert other == table and other.html == table.html
    longer = table.with_note("<more>")
    assert longer == "a\n-\n1\n<more>" and Parsed(longer.html).notes == ["<more>"]


def test_the_question_is_below_the_table() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    table = fxlrp.compile(model, at="1").table()
    assert table.splitlines()[-1].startswith("the question: ")
    assert Parsed(table.html).notes[-1] == table.splitlines()[-1]


def test_numbers_end_at_the_same_place() -> None:
    parsed = Parsed(html_table(["name", "count"], [["a", "1"], ["b", "10"]], right=["count"]))
    cells = [attributes.get("class") for tag, attributes in parsed.tags if tag in ("th", "td")]
    assert cells == [None, "r"] * 3


def test_html_has_whole_cells_whatever_the_width_of_the_text() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    explain = fxlrp.compile(model, "epsilon")
    narrow = explain.table(width=60, hide=["shape", "module"])
    assert max(map(len, narrow.splitlines())) <= 60 and "…" in narrow
    assert "…" not in narrow.html
    assert narrow.html == explain.table(hide=["shape", "module"]).html
    assert Parsed(narrow.html).rows[0] == ["node", "operation", "rule", "why", "relevance"]
    assert [row[0] for row in Parsed(explain.table(only="0").html).rows[1:]] == ["_0"]


def test_long_cells_are_wrapped() -> None:
    parsed = Parsed(html_table(["why", "count"], [["a " * 40, "1"], ["short", "2"]], right=["count"]))
    assert [attributes.get("class") for tag, attributes in parsed.tags if tag == "td"] == ["w", "r", None, "r"]
