"""A page is one file: it refers to nothing outside of itself."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import torch

import fxlrp
from fxlrp.graph_page.page import LAYOUT, SCRIPTS
from helpers import ROOT
from shown_models import Twice

ASSETS = ROOT / "fxlrp" / "graph_page" / "assets"
ADDRESS = re.compile(r"\w+://|url\(|@import|fetch\(|XMLHttpRequest|\bimport\b|eval\(|innerHTML")
LOADING = {"src", "href", "srcset", "data", "action", "formaction", "poster", "background", "xlink:href"}


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.inside = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.texts.append((tag, ""))
        self.inside = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            tag, before = self.texts.pop()
            self.texts.append((tag, before + data))


def page() -> str:
    return fxlrp.compile(Twice().eval()).graph(None, torch.ones(2, 4), target=1).html


def test_no_element_loads_anything() -> None:
    elements = Elements(page()).found
    loaded = [
        (tag, name, value) for tag, attributes in elements for name, value in attributes.items() if name in LOADING
    ]
    assert loaded == [("link", "href", "data:,")]  # no icon, where a browser would ask for one
    assert not {tag for tag, _ in elements} & {"iframe", "object", "embed", "img", "base", "audio", "video"}


def test_each_script_is_whole_and_the_data_comes_first() -> None:
    scripts = [text for tag, text in Elements(page()).texts if tag == "script"]
    assert len(scripts) == 1 + len(SCRIPTS)
    assert scripts[1:] == [f"\n{(ASSETS / name).read_text(encoding='utf-8')}" for name in SCRIPTS]


def test_styles_and_scripts_name_no_address() -> None:
    own = [path for path in ASSETS.iterdir() if path.suffix in (".js", ".css", ".html") and path.name != LAYOUT]
    assert len(own) == len(SCRIPTS) + 1
    for path in own:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")  # the name of the elements, not an address
        assert not re.search(r"\w+://|url\(|@import|fetch\(|XMLHttpRequest|\bimport\b|eval\(|innerHTML", text), (
            path.name
        )


def test_the_layout_library_is_the_released_file_with_its_licenses() -> None:
    header = (ASSETS / LAYOUT).read_text(encoding="utf-8")[:200]
    version = re.search(r"Viz\.js ([\d.]+)", header)
    assert version and f"viz-global-{version.group(1)}.js" == LAYOUT
    licenses = (ASSETS / "LICENSES.txt").read_text()
    assert f"@viz-js/viz {version.group(1)}" in licenses
    assert all(part in licenses for part in ("Michael Daines", "Expat maintainers", "Eclipse Public License - v 1.0"))


def test_notebooks_show_the_page_in_a_frame() -> None:
    shown = fxlrp.compile(Twice().eval()).graph()
    frame = shown._repr_html_()
    ((tag, attributes),) = Elements(frame).found
    assert tag == "iframe" and set(attributes) == {"srcdoc", "style", "title"}
    assert attributes["srcdoc"] == shown.html
    assert unescape(frame).count("<iframe") == 1


def test_saving_twice_writes_the_same_file(tmp_path: Path) -> None:
    explain = fxlrp.compile(Twice().eval())
    for name in ("first.html", "second.html"):
        explain.graph(tmp_path / name)
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()
