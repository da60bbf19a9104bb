"""Pages of the documentation that contain a table of results."""

from __future__ import annotations

from fxlrp.errors import InputError


def between(page: str, begin: str, end: str, content: str) -> str:
    """The page with the content in place of what is between two marks.

    Raises:
        InputError: The page does not have the marks.
    """
    before, first, rest = page.partition(begin)
    _, last, after = rest.partition(end)
    if not (first and last):
        raise InputError(f"the page needs the marks {begin} and {end} around its table")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"
