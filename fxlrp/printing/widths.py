"""Shorten the cells of a table to a width; an ellipsis stands for what is left out."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fxlrp.errors import InputError

ELLIPSIS = "…"
# Between two columns, and around a header that is wider than its cells, as tabulate sets them.
_GAP = 2
_HEADER = 2
_LEAST = 8


def shortened(
    rows: Sequence[Sequence[str]],
    headers: Sequence[str],
    width: int,
    *,
    first: Collection[str],
    keep_the_end: Collection[str],
) -> list[list[str]]:
    """Return rows that fit into lines of a width: the widest columns are shortened, all to the same width.

    Args:
        rows: The cells.
        headers: The names of the columns.
        width: The largest number of characters of a line.
        first: The columns to shorten; the others are shortened only if this is not enough.
        keep_the_end: The columns of which the end says more than the start, such as paths.

    Raises:
        InputError: The lines cannot be that short.
    """
    least = [max(len(name) + _HEADER, _LEAST) for name in headers]
    needed = [max([len(name) + _HEADER, *(len(row[index]) for row in rows)]) for index, name in enumerate(headers)]
    least = [min(each, most) for each, most in zip(least, needed, strict=True)]
    available = width - _GAP * (len(headers) - 1)
    if sum(least) > available:
        raise InputError(
            f"width={width} is too narrow for the columns {', '.join(headers)}, which need at least "
            f"{sum(least) + width - available}: hide some of them with hide=[...]"
        )
    kept = [size if name in first else most for name, size, most in zip(headers, least, needed, strict=True)]
    widths = _share(needed, kept if sum(kept) <= available else least, available)
    return [
        [
            _cut(cell, size, keep_the_end=name in keep_the_end)
            for cell, size, name in zip(row, widths, headers, strict=True)
        ]
        for row in rows
    ]


def _share(needed: Sequence[int], least: Sequence[int], available: int) -> list[int]:
    """The widths of columns: as needed, and the same limit for those that need more."""
    limit = max(needed)
    while sum(_limited(needed, least, limit)) > available:
        limit -= 1
    widths = _limited(needed, least, limit)
    for index, size in enumerate(widths):
        widths[index] = min(needed[index], size + available - sum(widths))
    return widths


def _limited(needed: Sequence[int], least: Sequence[int], limit: int) -> list[int]:
    return [min(most, max(fewest, limit)) for most, fewest in zip(needed, least, strict=True)]


def _cut(cell: str, size: int, *, keep_the_end: bool) -> str:
    if len(cell) <= size:
        return cell
    return ELLIPSIS + cell[len(cell) - size + 1 :] if keep_the_end else cell[: size - 1] + ELLIPSIS
