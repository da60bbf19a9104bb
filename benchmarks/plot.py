"""The pictures: a panel of bars for each preset, one of curves for each way to grow, and curves over lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plan import Case, layers
from benchmarks.results import Record, Results

SERIES = {"batch": "images in the batch", "size": "pixels on a side", "depth": "layers"}
BLACK = (0.0, 0.0, 0.0, 1.0)

Colours = Mapping[str, Any]


def draw(results: Results, file: Path) -> None:
    """Write the picture as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    presets = list(dict.fromkeys(record.case.preset for record in results.of("presets")))
    series = [kind for kind in SERIES if results.of(kind)]
    names = [name for kind in ("presets", *series) for name in results.contestants(kind)]
    palette = pyplot.get_cmap("tab10")
    colours = {name: palette(index % 10) for index, name in enumerate(dict.fromkeys(names))} | {"gradient": BLACK}

    rows = len(presets) + bool(series)
    figure = pyplot.figure(figsize=(11, 2.6 * max(rows, 1) + 0.5), layout="constrained")
    grid = figure.add_gridspec(max(rows, 1), 6)
    for row, preset in enumerate(presets):
        _bars(figure.add_subplot(grid[row, :]), results, preset, colours)
    for column, kind in enumerate(series):
        width = 6 // len(series)
        _curves(figure.add_subplot(grid[-1, column * width : (column + 1) * width]), results, kind, colours)
    patches = [Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    figure.legend(patches, list(colours), loc="outside upper center", ncols=min(len(colours), 8), frameon=False)
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def draw_lengths(results: Results, file: Path) -> None:
    """Write the picture of the transformers over lengths: a row for each preset, time on the left, memory beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = results.of("length")
    measured = [record.case.model for record in records]
    # The model with the most lengths.
    longest = [record for record in records if record.case.model == max(measured, key=measured.count)]
    presets = list(dict.fromkeys(record.case.preset for record in longest))
    figure, grid = pyplot.subplots(
        max(len(presets), 1), 2, figsize=(9, 3 * max(len(presets), 1)), squeeze=False, layout="constrained"
    )
    for row, preset in zip(grid, presets, strict=False):
        shown = [record for record in longest if record.case.preset == preset]
        _ratios(row[0], shown, f"{preset}: time", Record.time)
        _ratios(row[1], shown, f"{preset}: peak memory", Record.memory)
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def _ratios(axes: Any, records: Sequence[Record], title: str, ratio: Callable[[Record, str], float | None]) -> None:
    """The ratios to the gradient of each contestant over lengths."""
    from matplotlib.ticker import NullLocator

    for name in dict.fromkeys(name for record in records for name in record.case.contestants if name != "gradient"):
        points = [(record.case.size, ratio(record, name)) for record in records]
        shown = [(size, value) for size, value in points if value is not None]
        if shown:
            axes.plot(*zip(*shown, strict=True), marker="o", markersize=4, label=name)
    axes.axhline(1, color=BLACK, linewidth=0.8, linestyle=":", label="gradient")
    sizes = [record.case.size for record in records]
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.set_xlabel(records[0].case.unit)
    axes.set_ylabel("gradients")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)


def _bars(axes: Any, results: Results, preset: str | None, colours: Colours) -> None:
    """The time of each contestant on each model; what is far off the scale says its number."""
    records = [record for record in results.of("presets") if record.case.preset == preset]
    names = results.contestants("presets")
    ratios = {(row, name): record.time(name) for row, record in enumerate(records) for name in names}
    highest = max((ratio for ratio in ratios.values() if ratio), default=1.0)
    ours = max((ratio for (_, name), ratio in ratios.items() if ratio and name.startswith("fxlrp")), default=highest)
    ceiling = 1.1 * max(min(highest, 4 * ours), 1)
    width = 0.8 / max(len(names), 1)
    for row, record in enumerate(records):
        for column, name in enumerate(names):
            left, ratio = row - 0.4 + width * column, ratios[row, name]
            text = dict(ha="center", fontsize=7)
            if ratio:
                hatch = "////" if record.is_another_result(name) else None
                axes.bar(left, min(ratio, ceiling), width, align="edge", color=colours[name], hatch=hatch, ec="white")
                if ratio > ceiling:
                    axes.text(left + width / 2, ceiling, f"{ratio:.0f}", va="bottom", **text)
            elif name in record.failures():
                axes.text(left + width / 2, 0, "×", va="bottom", color=colours[name], **text)
    axes.axhline(1, color=BLACK, linewidth=0.8, linestyle=":")
    axes.set_xlim(-0.5, len(records) - 0.5)
    axes.set_ylim(0, ceiling)
    axes.set_xticks(range(len(records)), [record.case.model for record in records])
    axes.set_ylabel("time / gradient")
    axes.set_title(f"{preset} (×: did not run; hatched: another result)", fontsize=10, pad=10)
    axes.grid(axis="y", alpha=0.3)


def _curves(axes: Any, results: Results, kind: str, colours: Colours) -> None:
    """The seconds of each contestant, on logarithmic axes: a straight line grows by a power."""
    from matplotlib.ticker import NullLocator

    records = results.of(kind)
    for name in ("gradient", *results.contestants(kind)):
        points = [(_place(record.case, kind), record.seconds(name)) for record in records]
        shown = [(place, seconds) for place, seconds in points if seconds is not None]
        if shown:
            axes.plot(*zip(*shown, strict=True), marker="o", markersize=4, color=colours[name])
    places = [_place(record.case, kind) for record in records]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(places, [str(place) for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(SERIES[kind])
    axes.set_ylabel("seconds")
    axes.set_title(f"{records[0].case.preset}, by {kind}", fontsize=10)
    axes.grid(alpha=0.3, which="both")


def _place(case: Case, kind: str) -> int:
    """Where a case stands on the axis."""
    return {"batch": case.batch, "size": case.size, "depth": layers(case.model)}[kind]
