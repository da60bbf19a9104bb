"""Pictures of relevance: each image beside its heatmap."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fxlrp.extras import require

__all__ = ["heatmap", "save_heatmaps"]

INK = "#22252b"
FAINT = "#9aa0a8"
WRONG = "#b3261e"
# Blue for relevance against the class, white for none, red for relevance in favor of it.
BLUE_WHITE_RED = ("#08306b", "#2b6cb5", "#9ecae8", "#ffffff", "#fcae91", "#d7301f", "#67000d")


def heatmap(relevance: Tensor) -> Tensor:
    """Relevance of shape (..., C, H, W) per pixel, in [-1, 1]: each image on its own symmetric scale."""
    pixels = relevance.detach().cpu().double().sum(-3)
    largest = pixels.abs().amax((-2, -1), keepdim=True)
    return pixels / largest.clamp_min(torch.finfo(torch.float32).tiny)


def save_heatmaps(
    path: str | os.PathLike[str],
    images: Tensor,
    relevance: Tensor,
    titles: Sequence[str],
    *,
    heading: str = "",
    wrong: Sequence[bool] | None = None,
    columns: int = 4,
) -> None:
    """Write a PNG with every image beside its heatmap, `columns` pairs to a row.

    Args:
        path: where to write.
        images: (N, C, H, W) with values in [0, 1]; one channel is drawn as ink on paper, three as colors.
        relevance: shaped like `images`.
        titles: a title for each image.
        heading: a line above the images.
        wrong: True for each image whose title is highlighted as a mistake.
        columns: the number of pairs in a row.
    """
    figures = require("matplotlib.figure", "demo")
    colors = require("matplotlib.colors", "demo")
    mappable = require("matplotlib.cm", "demo").ScalarMappable

    count = len(images)
    columns = min(columns, count)
    rows = -(-count // columns)
    # The layout in inches: all pictures have the same width, whatever their shape in pixels.
    side = 1.25 if columns > 1 else 2.5
    tall = side * images.shape[-2] / images.shape[-1]
    gap, between, title, margin, bar = 0.06, 0.35, 0.32, 0.3, 1.1
    above = 0.5 if heading else 0.1
    width = 2 * margin + columns * (2 * side + gap) + (columns - 1) * between + bar
    height = above + rows * (title + tall) + margin
    figure: Any = figures.Figure(figsize=(width, height), dpi=160, facecolor="white")

    def place(x: float, y: float, wide: float, high: float) -> Any:
        """Axes at `x` from the left and `y` from the top."""
        return figure.add_axes((x / width, 1 - (y + high) / height, wide / width, high / height))

    # An odd number of colors, so that zero relevance is exactly white.
    scale = colors.LinearSegmentedColormap.from_list("blue_white_red", BLUE_WHITE_RED, N=257)
    norm = colors.Normalize(-1, 1)
    maps = heatmap(relevance)
    pictures = images.detach().cpu().float().clamp(0, 1)
    for index in range(count):
        row, column = divmod(index, columns)
        x = margin + column * (2 * side + gap + between)
        y = above + row * (title + tall) + title
        left, right = place(x, y, side, tall), place(x + side + gap, y, side, tall)
        picture = pictures[index]
        if len(picture) == 1:
            left.imshow(picture[0].tolist(), cmap="gray_r", vmin=0, vmax=1, aspect="auto")
        else:
            left.imshow(picture.permute(1, 2, 0).tolist(), aspect="auto")
        right.imshow(maps[index].tolist(), cmap=scale, norm=norm, interpolation="nearest", aspect="auto")
        for axes in (left, right):
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=FAINT, linewidth=0.6)
        color = WRONG if wrong is not None and wrong[index] else INK
        left.set_title(titles[index], loc="left", fontsize=10, color=color, pad=4)

    if heading:
        figure.text(margin / width, 1 - 0.22 / height, heading, fontsize=12, color=INK, va="top", weight="bold")
    high = min(2.6, rows * (title + tall) - title)
    x = width - bar - margin + 0.3
    colorbar = figure.colorbar(mappable(norm, scale), cax=place(x, above + title, 0.14, high), ticks=[-1, 0, 1])
    colorbar.ax.set_yticklabels(["against", "none", "in favor"], fontsize=9, color=INK)
    for label, place_at in zip(colorbar.ax.get_yticklabels(), ("bottom", "center", "top"), strict=True):
        label.set_va(place_at)
    colorbar.ax.tick_params(length=0)
    colorbar.outline.set(edgecolor=FAINT, linewidth=0.6)
    figure.savefig(path, format="png")
