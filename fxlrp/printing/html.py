"""Tables for notebooks: HTML beside the text that is printed. Pages as files."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from html import escape

from fxlrp.arguments import path_of

__all__ = ["Table", "html_table", "in_cells", "save_page"]

# Cells with more characters are wrapped.
_LONG = 48
# Colors are those of the notebook, light or dark: lines and stripes are transparent grays. The class is written twice
# so that notebooks' own styles of tables do not prevail. Rows that scroll below the names of columns are blurred there.
_STYLE = """<style>
.fxlrp-table{overflow:auto;max-height:36em;max-width:100%;width:fit-content;
scrollbar-color:rgba(128,128,128,.6) transparent}
.fxlrp-table.fxlrp-table table{border-collapse:collapse;border:0;margin:0;table-layout:auto;font-size:12.5px;
line-height:1.4;color:inherit;font-variant-numeric:tabular-nums}
.fxlrp-table.fxlrp-table :is(td,th){padding:3px 12px 3px 4px;border:0;vertical-align:top;text-align:left;color:inherit;
max-width:none;white-space:nowrap}
.fxlrp-table.fxlrp-table th{position:sticky;top:0;font-weight:600;backdrop-filter:blur(14px);
background:rgba(128,128,128,.12);border-bottom:1px solid rgba(128,128,128,.35)}
.fxlrp-table.fxlrp-table :is(td,th).r{text-align:right}
.fxlrp-table.fxlrp-table td.w{min-width:20em;max-width:34em;overflow-wrap:break-word;white-space:normal}
.fxlrp-table.fxlrp-table tbody tr{background:transparent}
.fxlrp-table.fxlrp-table tbody tr:nth-child(even){background:rgba(128,128,128,.07)}
.fxlrp-table.fxlrp-table tr.f{opacity:.65}
.fxlrp-notes{font-size:12.5px;line-height:1.5;margin-top:6px;white-space:pre-wrap}
</style>"""


class Table(str):
    """The text of a table, which notebooks show as HTML."""

    html: str

    def __new__(cls, text: str, html: str = "") -> Table:
        """Return the text with its HTML. Copies and pickles set the HTML later."""
        table = super().__new__(cls, text)
        table.html = html
        return table

    def with_note(self, line: str) -> Table:
        """The table with one more line below it."""
        return Table(f"{self}\n{line}", f'{self.html}<div class="fxlrp-notes" style="margin:0">{escape(line)}</div>')

    def _repr_html_(self) -> str:
        return self.html


def save_page(path: str | os.PathLike[str], page: str) -> None:
    """Write a page of HTML.

    Args:
        path: The file to write, which ends in ``.html``.
        page: The page.

    Raises:
        InputError: The path does not end in ``.html``.
    """
    path_of(path, ".html").write_text(page, encoding="utf-8")


def in_cells(rows: Iterable[Sequence[str | float | None]], floats: str = ".6g") -> list[tuple[str, ...]]:
    """Return the text of every cell, with floating-point numbers in a format; None is empty."""
    return [
        tuple("" if each is None else format(each, floats) if isinstance(each, float) else str(each) for each in row)
        for row in rows
    ]


def html_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: str = "",
    *,
    right: Collection[str] = (),
    faint: Collection[int] = (),
) -> str:
    """Return a table as HTML that needs no other file.

    Args:
        headers: The names of the columns.
        rows: The cells of every row, as text, which is escaped.
        notes: The lines below the table, as text, which is escaped.
        right: The names of the columns that contain numbers and end at the same place.
        faint: The indices of the rows that matter less.
    """
    ends = [' class="r"' if header in right else "" for header in headers]
    head = "".join(f"<th{end}>{escape(header)}</th>" for header, end in zip(headers, ends, strict=True))
    lines = []
    for index, row in enumerate(rows):
        classes = [' class="w"' if len(cell) > _LONG else end for cell, end in zip(row, ends, strict=True)]
        cells = "".join(f"<td{each}>{escape(cell)}</td>" for cell, each in zip(row, classes, strict=True))
        faded = ' class="f"' if index in faint else ""
        lines.append(f"<tr{faded}>{cells}</tr>")
    body = "\n".join(lines)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    shown = f'<div class="fxlrp-table">{table}</div>' if rows else ""
    below = f'<div class="fxlrp-notes">{escape(notes)}</div>' if notes else ""
    return f"{_STYLE}<div>{shown}{below}</div>"
