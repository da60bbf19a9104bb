"""The relevance of rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from numbers import Number
from typing import Any

from tabulate import tabulate
from torch import Tensor

from fxlrp.errors import InputError
from fxlrp.show.arrays import names_of, numbers_of
from fxlrp.show.colors import INK, PAPER
from fxlrp.show.page import Page, card, colored, printable
from fxlrp.show.scale import minus, scale_of, signed
from fxlrp.show.texts import bar

# Every cell has its own background: notebooks color the rows of tables.
CELL = f"padding:3px 10px;border:1px solid #dfe2e6;text-align:right;line-height:1.4;background:{PAPER};color:{INK}"
LEFT = "text-align:left"


def table(
    values: Any,
    relevance: Any,
    *,
    columns: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    quantile: float = 1.0,
    scale: float | None = None,
) -> Page:
    """Show rows of a table, each value on the color of its relevance. A single row is shown with a line for each value.

    Args:
        values: A row or a sequence of rows: a tensor, an array, or nested lists of numbers and strings.
        relevance: The relevance of each value, of shape (columns,) or (rows, columns).
        columns: The names of the columns; by default their numbers.
        rows: The names of the rows; by default their numbers.
        quantile: The quantile of the absolute relevance that gets the full color; what is larger is clipped to it.
        scale: The absolute relevance that gets the full color, in place of the quantile.

    Returns:
        What notebooks show as HTML, and ``print`` as text.

    Raises:
        InputError: The relevance has another shape or is not finite, or the values or names do not fit it.

    Example:
        >>> from fxlrp import show
        >>> print(show.table([3.5, "blue"], [1.0, -0.5], columns=["size", "color"]))
        column      value    relevance
        --------  -------  -----------  ------------------------
        size          3.5           +1  ++++++++++++++++++++++++
        color        blue         -0.5  ------------
        <BLANKLINE>
        full color at ±1 (the largest), sum 0.5
    """
    numbers = numbers_of(relevance, "relevance")
    shape = tuple(numbers.shape)
    if numbers.dim() not in (1, 2):
        raise InputError(f"relevance of shape {shape} is not (columns,) or (rows, columns)")
    amounts = numbers.reshape(-1, shape[-1])
    cells = _cells(values, tuple(amounts.shape))
    heads = _names(columns, "columns", amounts.shape[1])
    sides = _names(rows, "rows", amounts.shape[0])
    chosen = scale_of(amounts, quantile, scale)
    caption = f"{chosen}, sum {signed(float(amounts.sum())).lstrip('+')}"
    lines = [
        [_Cell(_text_of(value), _html_of(value), *numbers) for value, *numbers in zip(*row, strict=True)]
        for row in zip(cells, amounts.tolist(), chosen.share(amounts).tolist(), strict=True)
    ]
    html, text = _one(heads, lines[0]) if len(lines) == 1 else _many(heads, sides, lines)
    return Page(card(html, chosen, caption), f"{text}\n\n{caption}", chosen.value, caption)


@dataclass(frozen=True)
class _Cell:
    """A value as text and as HTML, its relevance, and the share of the scale."""

    text: str
    html: str
    amount: float
    share: float


def _cells(values: Any, shape: tuple[int, ...]) -> list[Sequence[Any]]:
    """Return the values in rows."""
    listed = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise InputError(f"values={values!r} is not a row or a sequence of rows")
    nested = listed if listed and all(isinstance(each, (list, tuple)) for each in listed) else [listed]
    sizes = {len(row) for row in nested}
    if len(nested) != shape[0] or sizes != {shape[1]}:
        found = f"{len(nested)} rows of {' or '.join(map(str, sorted(sizes)))} values"
        raise InputError(f"values has {found}, and relevance {shape[0]} rows of {shape[1]}")
    return list(nested)


def _text_of(value: Any) -> str:
    value = value.item() if isinstance(value, Tensor) else value
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def _html_of(value: Any) -> str:
    text = _text_of(value)
    return escape(minus(text) if isinstance(value, (Number, Tensor)) else text)


def _names(names: Sequence[str] | None, what: str, count: int) -> list[str]:
    if names is None:
        return [str(index) for index in range(count)]
    found = names_of(names, what)
    if len(found) != count:
        raise InputError(f"{what} has {len(found)} names, and relevance {count} {what}")
    return [printable(each) for each in found]


def _one(heads: Sequence[str], cells: Sequence[_Cell]) -> tuple[str, str]:
    """A line for each value, as HTML and as text."""
    text = tabulate(
        [(head, each.text, signed(each.amount), bar(each.share)) for head, each in zip(heads, cells, strict=True)],
        headers=("column", "value", "relevance", ""),
        colalign=("left", "right", "right", "left"),
        disable_numparse=True,
    )
    body = "".join(
        f"<tr>{_td(escape(head), LEFT)}{_td(each.html)}{_td(minus(signed(each.amount)), colored(each.share))}</tr>"
        for head, each in zip(heads, cells, strict=True)
    )
    return _html(_th("column", LEFT) + _th("value") + _th("relevance"), body), text


def _many(heads: Sequence[str], sides: Sequence[str], rows: Sequence[Sequence[_Cell]]) -> tuple[str, str]:
    """Rows of values, as HTML and as text."""
    lines = [
        (side, *(f"{each.text} ({signed(each.amount)})" for each in row)) for side, row in zip(sides, rows, strict=True)
    ]
    text = tabulate(lines, headers=("", *heads), disable_numparse=True, stralign="right")
    body = ""
    for side, row in zip(sides, rows, strict=True):
        cells = (
            _td(f"{each.html}<br><small>{minus(signed(each.amount))}</small>", colored(each.share)) for each in row
        )
        body += f"<tr>{_th(side, LEFT)}{''.join(cells)}</tr>"
    return _html(_th("") + "".join(_th(head) for head in heads), body), text


def _td(content: str, style: str = "") -> str:
    """A cell of a table; the content is HTML."""
    return f'<td style="{CELL};{style}">{content}</td>'


def _th(name: str, style: str = "") -> str:
    """A cell with a name, which is escaped."""
    return f'<th style="{CELL};font-weight:600;{style}">{escape(name)}</th>'


def _html(heads: str, body: str) -> str:
    return (
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;border:0;margin:0;table-layout:auto;'
        f'font-size:13px;font-variant-numeric:tabular-nums"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )
