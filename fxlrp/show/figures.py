"""What grids and signals share: a figure of matplotlib whose parts are placed in inches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from fxlrp.extras import require
from fxlrp.show.arrays import EXTRA
from fxlrp.show.colors import ANCHORS, FAINT, INK, PAPER
from fxlrp.show.picture import font, wrapped
from fxlrp.show.scale import minus, signed

if TYPE_CHECKING:
    from PIL.Image import Image

DPI = 160
EDGE = "#b4b9bf"
# The size of notes in points, and the height of their lines in inches.
NOTES, LINE = 7.5, 0.14


@dataclass(frozen=True)
class Sheet:
    """A figure whose parts are placed in inches from its upper left corner.

    Args:
        width: Its width in inches.
        height: Its height in inches.
        figure: The figure of matplotlib.
    """

    width: float
    height: float
    figure: Any

    @staticmethod
    def of(width: float, height: float) -> Sheet:
        """An empty sheet."""
        figures = require("matplotlib.figure", EXTRA)
        return Sheet(width, height, figures.Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER))

    def axes(self, x: float, y: float, width: float, height: float) -> Any:
        """New axes without ticks."""
        place = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(place)
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=EDGE, linewidth=0.6)
        return axes

    def text(self, x: float, y: float, text: str, size: float = 9, color: str = INK, **options: Any) -> None:
        """Text; `y` is its upper edge unless `va` says otherwise. Dollar signs have no meaning."""
        options = {"va": "top", "parse_math": False, **options}
        self.figure.text(x / self.width, 1 - y / self.height, text, fontsize=size, color=color, **options)

    def notes(self, x: float, y: float, lines: Sequence[str]) -> None:
        """Lines of small gray text."""
        for index, line in enumerate(lines):
            self.text(x, y + LINE * index, line, NOTES, FAINT)

    def bar(self, x: float, y: float, height: float, scale: float | None, alpha: float = 1.0) -> None:
        """The colors of a scale with its ends; None is a scale that differs."""
        mappable = require("matplotlib.cm", EXTRA).ScalarMappable
        norm = require("matplotlib.colors", EXTRA).Normalize(-1, 1)
        axes = self.axes(x, y, 0.12, height)
        bar = self.figure.colorbar(mappable(norm, color_map()), cax=axes, ticks=[-1, 0, 1], alpha=alpha)
        ends = ("−scale", "0", "+scale") if scale is None else [minus(signed(each * scale)) for each in (-1, 0, 1)]
        bar.ax.set_yticklabels(ends, fontsize=8, color=INK)
        for label, where in zip(bar.ax.get_yticklabels(), ("bottom", "center", "top"), strict=True):
            label.set_va(where)
        bar.ax.tick_params(length=0)
        bar.outline.set(edgecolor=EDGE, linewidth=0.6)

    def image(self) -> Image:
        """The sheet as an image of pillow."""
        file = BytesIO()
        self.figure.savefig(file, format="png")
        file.seek(0)
        found: Image = require("PIL.Image", EXTRA).open(file).convert("RGB")
        return found


def inches(text: str, size: float = 9) -> float:
    """The width of text."""
    return float(font(100).getlength(text)) / 100 * size / 72


def lines_of(text: str, width: float) -> list[str]:
    """Notes in lines of at most `width` inches."""
    return wrapped(text, lambda line: inches(line, NOTES), width)


def color_map() -> Any:
    """The colors of relevance for matplotlib; an odd number, so that zero is exactly white."""
    return require("matplotlib.colors", EXTRA).LinearSegmentedColormap.from_list("relevance", ANCHORS, N=513)
