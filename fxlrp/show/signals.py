"""The relevance of a signal: audio, or a series of one or several channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fxlrp.errors import InputError
from fxlrp.extras import require
from fxlrp.integers import is_integer
from fxlrp.show.arrays import EXTRA, names_of, numbers_of
from fxlrp.show.colors import EDGE, FAINT, INK, color_of, colors_of, on_paper
from fxlrp.show.figures import DPI, LINE, NOTES, Sheet, default_style, lines_of
from fxlrp.show.picture import Picture
from fxlrp.show.scale import QUANTILE, Scale, minus, number, real, scale_of, signed

if TYPE_CHECKING:
    from PIL.Image import Image

# The opacity of the colors behind the curves.
ALPHA = 0.6
SHARE_OF_BARS = 0.75
# In inches.
LEFT, WIDTH, RIGHT, MARGIN, GAP = 0.75, 7.0, 1.0, 0.2, 0.14
PANEL, SMALL_PANEL, BARS = 1.1, 0.7, 1.0
# The size of names beside the axes in points.
NAMES = 8.5


def signal(
    values: Any,
    relevance: Any,
    *,
    rate: float | None = None,
    channels: Sequence[str] | None = None,
    bins: int = 400,
    quantile: float = QUANTILE,
    scale: float | None = None,
) -> Picture:
    """Draw a signal on the colors of its relevance, and the relevance as bars below it.

    Args:
        values: The signal, of shape (length,), (channels, length) or (1, channels, length).
        relevance: The relevance of each value, of the same shape. The bars are summed over channels.
        rate: The number of values in a second. None counts values.
        channels: The names of the channels.
        bins: The largest number of bars. A longer signal is divided into as many parts, whose relevance is summed.
        quantile: The quantile of the absolute relevance of the parts that gets the full color; what is larger is
            clipped to it.
        scale: The absolute relevance of a part that gets the full color, in place of the quantile.

    Returns:
        The picture. Its caption says how many values a bar sums.

    Raises:
        InputError: The signal and the relevance have different or other shapes, or are not finite.

    Example:
        >>> import torch
        >>> from fxlrp import show
        >>> show.signal(torch.rand(1, 16000), torch.ones(1, 16000), rate=16000).scale
        40.0
    """
    curves, amounts = _channels(values, "values"), _channels(relevance, "relevance")
    if curves.shape != amounts.shape:
        raise InputError(
            f"values of shape {tuple(torch.as_tensor(values).shape)} and relevance of shape "
            f"{tuple(torch.as_tensor(relevance).shape)} are not the same channels and length"
        )
    if rate is not None:
        rate = real("rate", rate, "a positive number of values in a second", lambda value: 0 < value < math.inf)
    if not is_integer(bins) or bins < 1:
        raise InputError(f"bins={bins!r} is not a whole number of at least 1")
    names = names_of(channels, "channels") if channels is not None else ("",) * len(curves)
    if len(names) != len(curves):
        raise InputError(f"channels has {len(names)} names, but there are {len(curves)} channels")
    parts = _Parts.of(curves, amounts, bins, rate)
    chosen = scale_of(parts.sums, quantile, scale)
    caption = f"{chosen}, sum {signed(float(amounts.sum())).lstrip('+')}{parts.note}"
    return Picture(_draw(parts, names, chosen, caption), chosen.value, caption)


@dataclass(frozen=True)
class _Parts:
    """A signal, and the relevance of its parts.

    Args:
        curves: The signal, of shape (channels, length).
        sums: The relevance of each part, of shape (channels, parts).
        size: The number of values in a part; the last may have fewer.
        rate: The number of values in a second; None counts values.
    """

    curves: Tensor
    sums: Tensor
    size: int
    rate: float | None

    @staticmethod
    def of(curves: Tensor, amounts: Tensor, bins: int, rate: float | None) -> _Parts:
        size = -(-amounts.shape[1] // bins)
        padded = torch.nn.functional.pad(amounts, (0, -amounts.shape[1] % size))
        return _Parts(curves, padded.unflatten(1, (-1, size)).sum(-1), size, rate)

    @property
    def length(self) -> int:
        return self.curves.shape[1]

    @property
    def edges(self) -> list[float]:
        """Where the parts begin and end: a value lies in the middle of its step."""
        last = self.sums.shape[1]
        return [(min(index * self.size, self.length) - 0.5) / (self.rate or 1) for index in range(last + 1)]

    @property
    def note(self) -> str:
        """How many values a part has; empty if it is one."""
        seconds = f" ({number(self.size / self.rate * 1000)} ms)" if self.rate else ""
        return f"; each bar sums {self.size} values{seconds}" if self.size > 1 else ""


def _channels(values: Any, what: str) -> Tensor:
    """Return numbers of shape (channels, length)."""
    tensor = numbers_of(values, what)
    shape = tuple(tensor.shape)
    if tensor.dim() == 3 and shape[0] != 1:
        raise InputError(f"{what} of shape {shape} has {shape[0]} samples: pass one of them, {what}[0]")
    if tensor.dim() not in (1, 2, 3):
        raise InputError(f"{what} of shape {shape} is not (length,), (channels, length) or (1, channels, length)")
    return tensor.reshape(-1, shape[-1])


@default_style()
def _draw(parts: _Parts, names: Sequence[str], scale: Scale, caption: str) -> Image:
    count = len(parts.curves)
    panel = PANEL if count <= 3 else SMALL_PANEL
    bars_at = MARGIN + count * (panel + GAP)
    labels = [lines_of(each, panel, NAMES) for each in names]
    left = LEFT + LINE * max(0, *(len(each) - 1 for each in labels))
    width = left + WIDTH + RIGHT
    lines = lines_of(minus(caption), width - 2 * MARGIN)
    sheet = Sheet.of(width, bars_at + BARS + 0.42 + LINE * len(lines) + MARGIN)
    for index in range(count):
        axes = sheet.axes(left, MARGIN + index * (panel + GAP), WIDTH, panel)
        _curve(axes, parts, index, scale)
        _ticks(axes, "\n".join(labels[index]), axes.yaxis)
    axes = sheet.axes(left, bars_at, WIDTH, BARS)
    _bars(axes, parts)
    _ticks(axes, "relevance", axes.xaxis, axes.yaxis)
    axes.set_xlabel("seconds" if parts.rate else "position", fontsize=NAMES, color=INK, labelpad=2)
    if scale.value:
        sheet.bar(left + WIDTH + 0.15, MARGIN, min(1.6, bars_at - GAP - MARGIN), scale.value, _behind)
    sheet.notes(MARGIN, bars_at + BARS + 0.42, lines)
    return sheet.image()


def _curve(axes: Any, parts: _Parts, index: int, scale: Scale) -> None:
    """Draw a channel on the colors of its relevance."""
    curve, edges = parts.curves[index], parts.edges
    least, most = float(curve.min()), float(curve.max())
    room = (most - least or 1.0) * 0.08
    limits = [least - room, most + room]
    axes.set(xlim=(edges[0], edges[-1]), ylim=limits)
    behind = _behind(scale.share(parts.sums[index]))
    axes.pcolorfast(edges, limits, behind.unsqueeze(0).numpy())
    positions, heights = outline(curve, 4 * int(WIDTH * DPI))
    axes.plot(
        (positions / (parts.rate or 1)).tolist(),
        heights.tolist(),
        color=INK,
        linewidth=0.7 if parts.length > 400 else 1.1,
    )


def outline(curve: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Return the positions and values of a curve as it is drawn.

    Args:
        curve: The values.
        parts: The number of parts, each narrower than a pixel. A curve with more than two values for each is drawn from
            the least to the largest value of every part, which looks the same.
    """
    size = -(-len(curve) // parts)
    if size <= 2:
        return torch.arange(len(curve), dtype=torch.float64), curve
    padded = torch.cat((curve, curve[-1:].expand(-len(curve) % size))).unflatten(0, (-1, size))
    ends = torch.stack((padded.amin(1), padded.amax(1)), 1).flatten()
    positions = torch.arange(len(padded), dtype=torch.float64) * size + (size - 1) / 2
    return positions.clamp(max=len(curve) - 1).repeat_interleave(2), ends


def _behind(share: Tensor) -> Tensor:
    """The colors behind a curve, on which it can be seen."""
    return on_paper(colors_of(share), ALPHA)


def _bars(axes: Any, parts: _Parts) -> None:
    """Draw the relevance of each part, summed over channels."""
    sums, edges = parts.sums.sum(0), parts.edges
    colors = [color_of(SHARE_OF_BARS * share) for share in sums.sign().tolist()]
    widths = [right - left for left, right in pairwise(edges)]
    axes.bar(edges[:-1], sums.tolist(), widths, align="edge", color=colors)
    axes.axhline(0, color=EDGE, linewidth=0.8)
    axes.set(xlim=(edges[0], edges[-1]))


def _ticks(axes: Any, label: str, *sides: Any) -> None:
    ticker = require("matplotlib.ticker", EXTRA)
    for side in sides:
        side.set_major_locator(ticker.MaxNLocator(8 if side is axes.xaxis else 4))
        side.get_offset_text().set(fontsize=NOTES, color=FAINT)
    axes.tick_params(labelsize=NOTES, colors=FAINT, length=2)
    axes.set_ylabel(label, fontsize=NAMES, color=INK, parse_math=False)
