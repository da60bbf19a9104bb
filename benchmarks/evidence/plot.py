"""The picture: the rank accuracy of every method in every cell that is reported."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

from benchmarks.evidence.results import Results, names


def draw(results: Results, file: Path) -> None:
    """Write the picture as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = results.of("report")
    methods = names("preset", "other", "baseline")
    values = [[cell.spread(name).mean if cell.runs(name) else math.nan for cell in cells] for name in methods]
    figure = pyplot.figure(figsize=(3 + 0.32 * max(len(cells), 8), 2.5 + 0.3 * len(methods)), layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")  # where a method does not run: white
    titles = [f"{cell.problem.name}, {cell.network}" for cell in cells]
    axes.set_xticks(range(len(cells)), titles, rotation=90, fontsize=8)
    axes.set_yticks(range(len(methods)), methods, fontsize=8)
    for index, (before, after) in enumerate(pairwise(cells)):
        if before.problem != after.problem:
            axes.axvline(index + 0.5, color="white", linewidth=2)
    figure.colorbar(shown, ax=axes, label="relevance rank accuracy", shrink=0.7)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
