"""What is shown as HTML and as text."""

from __future__ import annotations

import os
from dataclasses import dataclass
from html import escape

from fxlrp.printing.html import save_page
from fxlrp.show.colors import ANCHORS, EDGE, FAINT, INK, PAPER, color_of, text_on
from fxlrp.show.scale import Scale, minus, signed

# The page has its own background: colors mean the same on a dark page.
CARD = (
    f"background:{PAPER};color:{INK};color-scheme:light;padding:12px 14px;border-radius:4px;"
    "width:fit-content;max-width:62em;font:14px/1.5 system-ui,sans-serif;text-align:left"
)
# The zero width non-joiner and the zero width joiner.
JOINERS = "\u200c\u200d"


@dataclass(frozen=True, eq=False)
class Page:
    """Relevance as HTML and as text. Notebooks show the HTML, and ``print`` the text.

    Args:
        html: A fragment of HTML without scripts, which needs no other file.
        text: The same for terminals and logs, without colors.
        scale: The absolute relevance that has the full color.
        caption: The scale and how it was chosen, in words.
    """

    html: str
    text: str
    scale: float
    caption: str

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a page of HTML.

        Args:
            path: The file to write, which ends in ``.html``.

        Raises:
            InputError: The path does not end in ``.html``.
        """
        page = (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Relevance</title></head>\n'
            f'<body style="margin:16px;background:{PAPER}">\n{self.html}\n</body></html>\n'
        )
        save_page(path, page)

    def _repr_html_(self) -> str:
        return self.html

    def __str__(self) -> str:
        """The text."""
        return self.text

    def __repr__(self) -> str:
        """The class and the caption."""
        return f"{type(self).__name__}({self.caption})"


def card(content: str, scale: Scale, caption: str) -> str:
    """Return content with a bar of the colors and a caption below it, as HTML.

    Args:
        content: HTML.
        scale: The scale of the colors.
        caption: Text, which is escaped.
    """
    note = f'<div style="color:{FAINT};font-size:12px">{escape(minus(caption))}</div>'
    return f'<div style="{CARD}">{content}{_bar(scale)}{note}</div>'


def _bar(scale: Scale) -> str:
    if not scale.value:
        return ""
    ends = "".join(f"<span>{minus(signed(share * scale.value))}</span>" for share in (-1, 0, 1))
    return (
        f'<div style="width:18em;max-width:100%;margin-top:12px;font-size:12px" role="img" '
        f'aria-label="blue is negative, white zero, red positive">'
        f'<div style="height:9px;border:1px solid {EDGE};background:linear-gradient(to right,{",".join(ANCHORS)})">'
        f'</div><div style="display:flex;justify-content:space-between">{ends}</div></div>'
    )


def colored(share: float) -> str:
    """The style of text on the color of a share of the scale."""
    background = color_of(share)
    return f"background:{background};color:{text_on(background)}"


def printable(text: str) -> str:
    """Text whose control characters are written as escapes, so that they do nothing where it is shown.

    Joiners between letters, which many scripts and emoji need, are kept.
    """
    kept = JOINERS if text.strip(JOINERS) else ""
    return "".join(
        each if each.isprintable() or each in kept else each.encode("unicode_escape").decode() for each in text
    )
