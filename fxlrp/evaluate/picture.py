"""The picture of the curves of pixel flipping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fxlrp.extras import require
from fxlrp.show.arrays import EXTRA
from fxlrp.show.figures import DPI, Sheet, default_style
from fxlrp.show.picture import Picture

WIDTH, HEIGHT = 7.0, 4.0
CAPTION = "scores of pixel flipping: line, most relevant regions first; dashed, least relevant regions first"


@default_style()
def draw(curves: Mapping[str, Sequence[Sequence[float]]]) -> Picture:
    """Draw curves of MoRF as lines, and of LeRF as dashed lines.

    Args:
        curves: The fractions, and the scores of MoRF and LeRF, by the name of the explanation.
    """
    # A figure without pyplot keeps no state and needs no display.
    figure = require("matplotlib.figure", EXTRA).Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    lines = []
    for index, (fractions, morf, lerf) in enumerate(curves.values()):
        lines += axes.plot(fractions, morf, color=f"C{index % 10}")
        axes.plot(fractions, lerf, color=f"C{index % 10}", linestyle="--")
    axes.set_xlabel("fraction of flipped regions (line: most relevant first, dashed: least relevant first)", fontsize=8)
    axes.set_ylabel("score")
    legend = figure.legend(lines, [" "] * len(lines), loc="outside right upper")
    for text, name in zip(legend.get_texts(), curves, strict=True):
        # Names are no formulas, and one may begin with an underscore, which would leave it out.
        text.set(text=name, parse_math=False)
    return Picture(Sheet(WIDTH, HEIGHT, figure).image(), None, CAPTION)
