"""What grids and signals share: a figure of matplotlib whose parts are placed in inches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fxlrp.extras import require
from fxlrp.show.arrays import EXTRA
from fxlrp.show.colors import EDGE, FAINT, INK, PAPER
from fxlrp.show.picture import FONT, wrapped
from fxlrp.show.scale import minus, signed

if TYPE_CHECKING:
    from PIL.Image import Image

DPI = 160
# The sizes of text in points, and the height of the lines of notes in inches.
TEXT, NOTES = 9.0, 7.5
LINE = 0.14

# The settings of matplotlib belong to all threads; each restores what it found.
_settings = threading.RLock()


@contextmanager
def default_style() -> Iterator[None]:
    """What is drawn inside looks the same whatever the user has set in matplotlib.

    The user's fonts have the letters that the default one lacks, such as those of Chinese.
    """
    matplotlib = require("matplotlib", EXTRA)
    # The backend belongs to the process, and figures here have none.
    users = ("backend", "font.sans-serif", "font.serif", "font.monospace", "font.cursive", "font.fantasy")
    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith(users)}
    with _settings:
        fonts = {"font.family": [FONT, *matplotlib.rcParams["font.family"]]}
        with matplotlib.rc_context({**defaults, **fonts}):
            yield


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

    def text(self, x: float, y: float, text: str, size: float = TEXT, color: str = INK, **options: Any) -> None:
        """Text; `y` is its upper edge unless `va` says otherwise. Dollar signs have no meaning."""
        options = {"va": "top", "parse_math": False, **options}
        self.figure.text(x / self.width, 1 - y / self.height, text, fontsize=size, color=color, **options)

    def notes(self, x: float, y: float, lines: Sequence[str]) -> None:
        """Lines of small gray text."""
        for index, line in enumerate(lines):
            self.text(x, y + LINE * index, line, NOTES, FAINT)

    def bar(self, x: float, y: float, height: float, scale: float | None, colors: Callable[[Tensor], Tensor]) -> None:
        """The colors of a scale with its ends; None is a scale that differs."""
        axes = self.axes(x, y, 0.12, height)
        shares = torch.linspace(1, -1, 513, dtype=torch.float64)
        axes.imshow(colors(shares).unsqueeze(1).numpy(), aspect="auto", extent=(0, 1, -1, 1))
        ends = ("−scale", "0", "+scale") if scale is None else [minus(signed(each * scale)) for each in (-1, 0, 1)]
        for index, (end, where) in enumerate(zip(ends, ("bottom", "center", "top"), strict=True)):
            self.text(x + 0.18, y + height * (1 - index / 2), end, 8, va=where)

    def image(self) -> Image:
        """The sheet as an image of pillow."""
        canvas = require("matplotlib.backends.backend_agg", EXTRA).FigureCanvasAgg(self.figure)
        canvas.draw()
        width, height = canvas.get_width_height()
        found: Image = require("PIL.Image", EXTRA).frombytes("RGBA", (width, height), bytes(canvas.buffer_rgba()))
        return found.convert("RGB")


def inches(text: str, size: float = TEXT) -> float:
    """The width of text, as matplotlib draws it."""
    paths, fonts = require("matplotlib.textpath", EXTRA), require("matplotlib.font_manager", EXTRA)
    width, _, _ = paths.text_to_path.get_text_width_height_descent(text, fonts.FontProperties(size=size), ismath=False)
    return float(width) / 72


def lines_of(text: str, width: float, size: float = NOTES) -> list[str]:
    """Text in lines of at most `width` inches."""
    return wrapped(text, lambda line: inches(line, size), width)
