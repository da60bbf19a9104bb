"""The page: one HTML file with its style, its scripts and its data, which loads nothing from anywhere."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from functools import cache
from importlib import resources

from fxlrp.graph_page.data import Graph
from fxlrp.printing.html import save_page

# Graphviz, compiled to WebAssembly, lays out the graph; LICENSES.txt beside it.
LAYOUT = "viz-global-3.31.0.js"
SCRIPTS = (LAYOUT, "model.js", "layout.js", "drawing.js", "viewport.js", "overview.js", "panel.js", "main.js")
HEIGHT_IN_NOTEBOOKS = 720


@dataclass(frozen=True)
class GraphPage:
    """The annotated graph as a page. :meth:`fxlrp.Explainer.graph` returns it, and notebooks display it.

    Args:
        graph: What the page shows.
    """

    graph: Graph

    @property
    def html(self) -> str:
        """The page."""
        scripts = "\n".join(f"<script>\n{_asset(name)}</script>" for name in SCRIPTS)
        parts = {
            "title": html.escape(self.graph.title),
            "style": _asset("page.css"),
            "data": self.graph.to_json(),
            "scripts": scripts,
        }
        return _filled(_asset("page.html"), parts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page.

        Args:
            path: The file to write, which ends in ``.html``.

        Raises:
            InputError: The path does not end in ``.html``.
        """
        save_page(path, self.html)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, for notebooks."""
        style = f"width:100%;height:{HEIGHT_IN_NOTEBOOKS}px;border:1px solid #8884;border-radius:6px"
        return f'<iframe srcdoc="{html.escape(self.html)}" style="{style}" title="annotated graph"></iframe>'

    def __repr__(self) -> str:
        """A single line with the size of the graph."""
        return f"GraphPage({self.graph.title}, {len(self.graph.nodes)} nodes, {len(self.graph.groups)} groups)"


@cache
def _asset(name: str) -> str:
    return resources.files("fxlrp.graph_page").joinpath("assets", name).read_text(encoding="utf-8")


def _filled(template: str, parts: dict[str, str]) -> str:
    """The template with its parts, each in place of ``{{ name }}``; what is inside a part is left alone."""
    first, *rest = template.split("{{ ")
    pieces = [first]
    for piece in rest:
        name, _, text = piece.partition(" }}")
        pieces += [parts[name], text]
    return "".join(pieces)
