"""Tokens and tables in a real browser: they load nothing, run nothing, and can be read on light and dark pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import fxlrp
from browser import Browser, find_chromium
from fxlrp import show

pytestmark = pytest.mark.browser

NASTY = [
    "<script>document.title = 'run'</script>",
    "<img src=x onerror=\"document.title = 'run'\">",
    "' onclick='x",
    "a",
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    executable = find_chromium()
    assert executable is not None
    browser = Browser(executable, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


# What JupyterLab does to tables in the output of a cell.
NOTEBOOK = """
.out {{ background: {background}; color: {ink}; font-family: sans-serif }}
.out table {{ border-collapse: collapse; color: {ink}; font-size: 12px; table-layout: fixed; margin: 0 auto 1em }}
.out thead {{ border-bottom: 1px solid; vertical-align: bottom }}
.out td, .out th, .out tr {{ vertical-align: middle; padding: 0.5em; line-height: normal; white-space: normal;
    max-width: none; border: none }}
.out:not(.markdown) td, .out:not(.markdown) th {{ text-align: right }}
.out tbody tr:nth-child(odd) {{ background: {background} }}
.out tbody tr:nth-child(even) {{ background: rgba(128, 128, 128, 0.2) }}
"""


def opened(browser: Browser, path: Path, html: str, background: str = "#fff", ink: str = "#222") -> None:
    """Open the HTML as a notebook of these colors would show it."""
    style = NOTEBOOK.format(background=background, ink=ink)
    path.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><title>notebook</title><style>{style}</style>'
        f'<body class="out">{html}</body>',
        encoding="utf-8",
    )
    browser.open(path, until="document.readyState === 'complete'")


def assert_harmless(browser: Browser, path: Path) -> None:
    assert browser.complaints == []
    assert browser.requests == [path.resolve().as_uri()]
    assert browser.evaluate("document.title") == "notebook"
    assert browser.evaluate("document.querySelectorAll('script, img, link, iframe').length") == 0


def test_tokens_are_text_on_their_colors(browser: Browser, tmp_path: Path) -> None:
    shown = show.tokens(NASTY, torch.tensor([1.0, -1.0, 0.0, 0.5]))
    opened(browser, tmp_path / "tokens.html", shown.html, "#111", "#ddd")
    assert_harmless(browser, tmp_path / "tokens.html")
    spans = "[...document.querySelectorAll('span[title]')]"
    assert browser.evaluate(f"{spans}.map(each => each.textContent)") == NASTY
    colors = browser.evaluate(f"{spans}.map(each => getComputedStyle(each).backgroundColor)")
    assert colors == ["rgb(165, 15, 21)", "rgb(8, 81, 156)", "rgb(255, 255, 255)", "rgb(250, 125, 93)"]
    # The card is white on a dark page, too, and does not exceed the window.
    card = "document.querySelector('body > div')"
    assert browser.evaluate(f"getComputedStyle({card}).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate(f"{card}.getBoundingClientRect().right <= innerWidth")


def test_saved_tokens_open(browser: Browser, tmp_path: Path) -> None:
    show.tokens(NASTY, torch.zeros(4)).save(tmp_path / "saved.html")
    browser.open(tmp_path / "saved.html", until="document.readyState === 'complete'")
    assert browser.complaints == [] and len(browser.requests) == 1
    assert browser.evaluate("document.title") == "Relevance"


def test_long_texts_wrap(browser: Browser, tmp_path: Path) -> None:
    words = [f" word{index}" for index in range(400)] + ["x" * 500]
    opened(browser, tmp_path / "long.html", show.tokens(words, torch.zeros(401)).html)
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # No token is divided, except for one that is longer than a line.
    heights = browser.evaluate("[...document.querySelectorAll('span[title]')].map(each => each.offsetHeight)")
    assert len(set(heights[:-1])) == 1 and heights[-1] > heights[0]


def test_rows_can_be_read_on_a_dark_page(browser: Browser, tmp_path: Path) -> None:
    shown = show.table([[1, "b"], [2, "<i>"]], torch.tensor([[0.5, -1.0], [0.0, 1.0]]))
    opened(browser, tmp_path / "rows.html", shown.html, "#111", "#ddd")
    assert_harmless(browser, tmp_path / "rows.html")
    styles = "[...document.querySelectorAll('td, th')].map(each => getComputedStyle(each))"
    pairs = browser.evaluate(f"{styles}.map(each => each.backgroundColor + ' ' + each.color)")
    paper = "rgb(255, 255, 255)"
    assert pairs == [
        *[f"{paper} rgb(34, 37, 43)"] * 4,
        *("rgb(250, 125, 93) rgb(0, 0, 0)", f"rgb(8, 81, 156) {paper}"),
        f"{paper} rgb(34, 37, 43)",
        *(f"{paper} rgb(0, 0, 0)", f"rgb(165, 15, 21) {paper}"),
    ]


@pytest.mark.parametrize(("background", "ink"), [("#ffffff", "rgb(34, 34, 34)"), ("#111111", "rgb(221, 221, 221)")])
def test_tables_have_the_colors_of_the_page(browser: Browser, tmp_path: Path, background: str, ink: str) -> None:
    layers = [layer for _ in range(40) for layer in (nn.Linear(4, 4), nn.ReLU())]
    explain = fxlrp.compile(nn.Sequential(*layers).eval(), "epsilon")
    opened(browser, tmp_path / "table.html", explain._repr_html_(), background, ink)
    assert_harmless(browser, tmp_path / "table.html")
    cell = "document.querySelector('tbody td')"
    assert browser.evaluate(f"getComputedStyle({cell}).color") == ink
    assert browser.evaluate(f"getComputedStyle({cell}).textAlign") == "left"
    assert browser.evaluate(f"getComputedStyle({cell}.parentNode).backgroundColor") == "rgba(0, 0, 0, 0)"
    assert browser.evaluate("document.querySelectorAll('tbody tr').length") == 81
    # The names of the columns stay where they are while the rows scroll.
    box, head = "document.querySelector('.fxlrp-table')", "document.querySelector('th').getBoundingClientRect().top"
    assert browser.evaluate(f"{box}.scrollHeight > {box}.clientHeight")
    before = browser.evaluate(head)
    browser.evaluate(f"{box}.scrollTop = 500")
    assert browser.evaluate(head) == before
    assert browser.evaluate(f"{cell}.getBoundingClientRect().top") < before
