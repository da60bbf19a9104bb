"""Several pictures in rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from fxlrp.errors import InputError
from fxlrp.integers import is_integer
from fxlrp.show.arrays import image_of, names_of
from fxlrp.show.colors import FAINT
from fxlrp.show.figures import LINE, NOTES, TEXT, Sheet, default_style, inches, lines_of
from fxlrp.show.heatmaps import Heatmap
from fxlrp.show.picture import Picture
from fxlrp.show.scale import QUANTILE, Scale, checked_quantile, minus, number, real, scale_of

if TYPE_CHECKING:
    from PIL.Image import Image

Cell: TypeAlias = "Picture | Image | None"
Rows: TypeAlias = "tuple[tuple[Cell, ...], ...]"

# In inches.
MARGIN, GAP, NOTE, BAR, LABEL = 0.2, 0.12, 0.17, 1.0, 1.6
# The bar of the colors is as high as the first row, but three lines have to fit beside it.
LEAST_BAR, MOST_BAR = 0.5, 2.6
# The size of a heading in points, and by how much bold letters are wider.
HEADING, BOLDER = 11.5, 1.15


def grid(
    cells: Any,
    *,
    titles: Sequence[Any] | None = None,
    rows: Sequence[str] | None = None,
    columns: int | None = None,
    heading: str = "",
    scale: float | Literal["shared"] | None = None,
    quantile: float = QUANTILE,
    width: float = 2.0,
) -> Picture:
    """Draw pictures in rows and columns, with one bar for the colors of the heatmaps.

    Args:
        cells: A sequence of rows, each a sequence of cells, or a sequence of cells. A cell is what :func:`heatmap` or
            another function of :mod:`fxlrp.show` returned, or an image as for :func:`overlay`, or None for an empty
            place. Tensors and arrays are images; relevance is drawn by :func:`heatmap`.
        titles: A title for each column, or rows of titles, one for each cell. For a sequence of cells, one for each.
        rows: A name for each row.
        columns: The number of columns for a sequence of cells. None makes one row.
        heading: A line above the pictures.
        scale: The scale of the heatmaps. None keeps the scale of each, which is printed below it. "shared" is the
            ``quantile`` of the absolute relevance of all heatmaps; a number is the relevance that gets the full color.
        quantile: The quantile for ``scale="shared"``.
        width: The width of each picture in inches.

    Returns:
        The picture. Its ``scale`` is None if the heatmaps have different ones.

    Raises:
        InputError: A cell is not a picture, or the titles or names do not fit the cells.

    Example:
        >>> import torch
        >>> from fxlrp import show
        >>> image, relevance = torch.rand(3, 8, 8), torch.ones(3, 8, 8)
        >>> show.grid([image, show.heatmap(relevance)], titles=["image", "relevance"]).scale
        3.0
    """
    table = _table(cells, columns)
    above = _titles(titles, table, flat=columns is not None)
    names = names_of(rows, "rows") if rows is not None else ()
    if names and len(names) != len(table):
        raise InputError(f"rows has {len(names)} names, but there are {len(table)} rows")
    (heading,) = names_of([heading], "heading")
    width = real("width", width, "a number of inches, above 0 and at most 20", lambda value: 0 < value <= 20)
    table, common, caption = _on_scale(table, scale, quantile)
    return Picture(_draw(table, above, names, heading, common, caption, width), common, caption)


@default_style()
def _draw(
    table: Rows,
    above: Sequence[Sequence[str]],
    names: Sequence[str],
    heading: str,
    common: float | None,
    caption: str,
    width: float,
) -> Image:
    count = len(table[0])
    noted = common is None and bool(caption)
    heights = [max(_ratio(cell) for cell in row) * width for row in table]
    titled = [[lines_of(each, width, TEXT) for each in row] for row in above]
    title_heights = [_height(max(map(len, row))) for row in titled]
    labels = [lines_of(each, LABEL, TEXT) for each in names]
    label = 0.12 + max(inches(line) for lines in labels for line in (lines or [""])) if labels else 0.0
    left, top = MARGIN + label, MARGIN
    wide = left + count * (width + GAP) - GAP + (BAR if caption else 0.0) + MARGIN
    head = lines_of(heading, (wide - 2 * MARGIN) / BOLDER, HEADING)
    notes = lines_of(minus(caption), wide - 2 * MARGIN)
    top += 0.19 * len(head) + 0.08 * bool(head)
    bar_height = min(max(heights[0], LEAST_BAR), MOST_BAR)
    high = sum(heights) + sum(title_heights) + (NOTE * noted + GAP) * len(table) - GAP
    high = max(high, title_heights[0] + bar_height) if caption else high
    sheet = Sheet.of(wide, top + high + (0.08 + LINE * len(notes)) * bool(notes) + MARGIN)
    for index, line in enumerate(head):
        sheet.text(MARGIN, MARGIN - 0.03 + 0.19 * index, line, HEADING, weight="bold")
    y = top
    for index, row in enumerate(table):
        y += title_heights[index]
        if labels:
            middle = y + heights[index] / 2
            sheet.text(left - 0.12, middle, "\n".join(labels[index]), va="center", ha="right", linespacing=1.25)
        for column, cell in enumerate(row):
            _place(sheet, cell, left + column * (width + GAP), y, width, titled[index][column], noted)
        y += heights[index] + NOTE * noted + GAP
    found = [cell for row in table for cell in row if isinstance(cell, Heatmap)]
    if found:
        beside = next((each for each in found if each.under is None), found[0])
        where = left + count * (width + GAP) + 0.05
        if common != 0:
            sheet.bar(where, top + title_heights[0], bar_height, common, beside.colors)
        sheet.notes(MARGIN, top + high + 0.1, notes)
    return sheet.image()


def _height(lines: int) -> float:
    """The height of a title of this many lines."""
    return 0.09 + 0.15 * lines if lines else 0.0


def _table(cells: Any, columns: int | None) -> Rows:
    """Return rows of the same length of what the cells show."""
    if isinstance(cells, Tensor) and cells.dim() == 4:
        cells = list(cells)
    if isinstance(cells, (str, bytes)) or not isinstance(cells, Sequence) or not len(cells):
        raise InputError(f"cells={type(cells).__name__} is not a sequence of pictures or of rows of pictures")
    nested = [isinstance(each, (list, tuple)) for each in cells]
    if any(nested) and not all(nested):
        raise InputError("cells contains rows and single cells: make every row a list")
    if columns is not None:
        if all(nested):
            raise InputError(f"columns={columns!r} is for a sequence of cells, and cells has rows already")
        if not is_integer(columns) or columns < 1:
            raise InputError(f"columns={columns!r} is not a whole number of at least 1")
    wrapped = columns or len(cells)
    rows = cells if all(nested) else [cells[start : start + wrapped] for start in range(0, len(cells), wrapped)]
    count = max(map(len, rows))
    if not any(cell is not None for row in rows for cell in row):
        raise InputError("cells contains no picture")
    shown = [[each if each is None or isinstance(each, Picture) else image_of(each) for each in row] for row in rows]
    return tuple((*row, *[None] * (count - len(row))) for row in shown)


def _titles(titles: Sequence[Any] | None, table: Rows, *, flat: bool) -> list[tuple[str, ...]]:
    """Return a title for every cell; empty where there is none."""
    count = len(table[0])
    none = ("",) * count
    if titles is None:
        return [none] * len(table)
    if isinstance(titles, (list, tuple)) and titles and all(isinstance(each, (list, tuple)) for each in titles):
        rows = [names_of(each, "titles") for each in titles]
        fits = len(rows) == len(table) and all(len(row) <= count for row in rows)
    elif flat:
        names = names_of(titles, "titles")
        rows = [names[start : start + count] for start in range(0, len(names), count)]
        cells = sum(cell is not None for row in table for cell in row)
        fits = len(rows) == len(table) and len(names) >= cells
    else:
        rows = [names_of(titles, "titles")]
        fits = len(rows[0]) == count
        rows += [()] * (len(table) - 1)
    if not fits:
        sizes = " + ".join(str(len(row)) for row in rows)
        raise InputError(f"there are {sizes} titles for {len(table)} rows of {count} cells")
    return [(*row, *none[len(row) :]) for row in rows]


def _on_scale(table: Rows, scale: Any, quantile: float) -> tuple[Rows, float | None, str]:
    """Return the cells on the requested scale, the common scale, and the caption."""
    found = [cell for row in table for cell in row if isinstance(cell, Heatmap)]
    checked_quantile(quantile)
    if isinstance(scale, str) and scale != "shared":
        raise InputError(f"scale={scale!r} is not None, 'shared' or a number")
    if not found:
        if scale is not None:
            raise InputError(f"scale={scale!r} is for heatmaps, and cells contains none: show.heatmap makes them")
        return table, None, ""
    if scale is not None:
        everything = torch.cat([each.relevance.flatten() for each in found])
        whose = f" of all {len(found)} heatmaps" if len(found) > 1 else ""
        chosen = scale_of(everything, quantile, None if isinstance(scale, str) else scale, whose)
        shown = tuple(tuple(cell.at(chosen) if isinstance(cell, Heatmap) else cell for cell in row) for row in table)
        return shown, chosen.value, str(chosen)
    if len({each.scale for each in found}) == 1:
        hows = dict.fromkeys(each.how for each in found)
        return table, found[0].scale, str(Scale(found[0].scale or 0.0, "; ".join(hows)))
    hows = dict.fromkeys(each.how for each in found)
    return table, None, f"full color at the scale below each heatmap ({'; '.join(hows)})"


def _ratio(cell: Cell) -> float:
    """The height of a cell as a multiple of its width."""
    image = cell.image if isinstance(cell, Picture) else cell
    return image.height / image.width if image is not None else 0.0


def _place(sheet: Sheet, cell: Cell, x: float, y: float, width: float, title: Sequence[str], noted: bool) -> None:
    for index, line in enumerate(reversed(title)):
        sheet.text(x, y - 0.08 - 0.15 * index, line, va="baseline")
    if cell is None:
        return
    image = cell.image if isinstance(cell, Picture) else cell
    height = _ratio(cell) * width
    axes = sheet.axes(x, y, width, height)
    axes.imshow(image, aspect="auto")
    if noted and isinstance(cell, Heatmap):
        note = f"±{number(cell.scale)}" if cell.scale else "all zero"
        sheet.text(x, y + height + 0.03, minus(note), NOTES, FAINT)
