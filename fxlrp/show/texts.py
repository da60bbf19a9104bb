"""The relevance of tokens, as HTML and for the terminal."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from torch import Tensor

from fxlrp.errors import InputError
from fxlrp.show.arrays import names_of, numbers_of
from fxlrp.show.colors import channels, color_of, text_on
from fxlrp.show.page import Page, card, colored, printable
from fxlrp.show.scale import Scale, minus, scale_of, signed

BAR = 24
# The categories of characters that take no column of their own: marks above and below letters, and joiners.
WITHOUT_WIDTH = ("Mn", "Me", "Cf")
SPANS = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.6;font-size:15px"
# A token that does not fit into a line moves to the next one as a whole.
SPAN = "border-radius:3px;padding:0 2px;margin:1px;display:inline-block;max-width:100%;unicode-bidi:isolate"


@dataclass(frozen=True, eq=False, repr=False)
class Tokens(Page):
    """Tokens with their relevance. :func:`tokens` returns it.

    Args:
        html: The tokens on the colors of their relevance.
        text: A line for each token: the token, its relevance, and a bar.
        scale: The absolute relevance that has the full color.
        caption: The scale and how it was chosen, in words.
        colors: The tokens on the colors of their relevance, for terminals with 24-bit colors.
    """

    colors: str = field(kw_only=True)

    def __str__(self) -> str:
        """The colors in a terminal, otherwise the text; ``NO_COLOR`` in the environment means the text, too."""
        in_color = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return self.colors if in_color else self.text


def tokens(
    tokens: Sequence[str],
    relevance: Any,
    *,
    quantile: float = 1.0,
    scale: float | None = None,
    space: str | None = None,
) -> Tokens:
    """Show tokens on the colors of their relevance.

    Args:
        tokens: The text of each token.
        relevance: The relevance of each token, of shape (length,) or (1, length), or of its embedding, of shape
            (1, length, features), which is summed.
        quantile: The quantile of the absolute relevance that gets the full color; what is larger is clipped to it.
        scale: The absolute relevance that gets the full color, in place of the quantile.
        space: The mark that stands for a space in the tokens of some tokenizers, such as "Ġ" or "▁"; it is shown as a
            space.

    Returns:
        What notebooks show as HTML; ``print`` shows it in colors in a terminal, and as a line for each token elsewhere.

    Raises:
        InputError: The relevance has another shape or is not finite, or the tokens are not strings.

    Example:
        >>> from fxlrp import show
        >>> print(show.tokens(["not", "bad"], [-0.5, 2.0]))
        not  -0.5  ------
        bad    +2  ++++++++++++++++++++++++
        full color at ±2 (the largest), sum 1.5
    """
    names = names_of(tokens, "tokens")
    values = _per_token(numbers_of(relevance, "relevance"), len(names))
    if space is not None and (not isinstance(space, str) or not space):
        raise InputError(f"space={space!r} is not a mark such as 'Ġ'")
    shown = tuple(name.replace(space, " ") for name in names) if space else names
    chosen = scale_of(values, quantile, scale)
    caption = f"{chosen}, sum {signed(float(values.sum())).lstrip('+')}"
    amounts, shares = values.tolist(), chosen.share(values).tolist()
    return Tokens(
        _html(shown, amounts, shares, chosen, caption),
        f"{_text(shown, amounts, shares)}\n{caption}",
        chosen.value,
        caption,
        colors=f"{_colors(shown, shares)}\n{caption}",
    )


def _per_token(relevance: Tensor, length: int) -> Tensor:
    shape = tuple(relevance.shape)
    if relevance.dim() in (2, 3) and shape[0] != 1:
        raise InputError(
            f"relevance of shape {shape} has {shape[0]} samples: pass one of them, relevance[0]; sum the features of "
            "embeddings first, relevance.sum(-1)"
        )
    if relevance.dim() not in (1, 2, 3):
        raise InputError(f"relevance of shape {shape} is not (length,), (1, length) or (1, length, features)")
    values = relevance if relevance.dim() == 1 else relevance[0]
    values = values.sum(-1) if values.dim() == 2 else values
    if len(values) != length:
        raise InputError(f"there are {length} tokens, but relevance of shape {shape} is that of {len(values)}")
    return values


def _html(names: Sequence[str], amounts: Sequence[float], shares: Sequence[float], scale: Scale, caption: str) -> str:
    spans = "".join(
        f'<span title="{escape(printable(name))}: {minus(signed(amount))}" style="{SPAN};{colored(share)}">'
        f"{escape(_visible(name))}</span>{_break(name)}"
        for name, amount, share in zip(names, amounts, shares, strict=True)
    )
    return card(f'<div style="{SPANS}">{spans}</div>', scale, caption)


def _colors(names: Sequence[str], shares: Sequence[float]) -> str:
    pieces = []
    for name, share in zip(names, shares, strict=True):
        behind = color_of(share)
        back, front = (";".join(map(str, channels(color))) for color in (behind, text_on(behind)))
        pieces.append(f"\x1b[48;2;{back}m\x1b[38;2;{front}m{_visible(name)}\x1b[0m{_break(name)}")
    return " ".join(pieces).replace("\n ", "\n")


def _text(names: Sequence[str], amounts: Sequence[float], shares: Sequence[float]) -> str:
    shown = [_visible(name) for name in names]
    numbers = [signed(amount) for amount in amounts]
    widths = [columns(name) for name in shown]
    wide, high = max(widths), max(map(len, numbers))
    rows = zip(shown, widths, numbers, shares, strict=True)
    return "\n".join(
        f"{name}{' ' * (wide - width)}  {each:>{high}}  {bar(share)}".rstrip() for name, width, each, share in rows
    )


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.category(each) in WITHOUT_WIDTH else 2 if unicodedata.east_asian_width(each) in "WF" else 1
        for each in text
    )


def bar(share: float) -> str:
    """The share of a scale as plus or minus signs."""
    return ("+" if share > 0 else "-") * round(abs(share) * BAR)


def _visible(name: str) -> str:
    """A token as it is shown: line breaks and tabs have signs, and an empty token, too."""
    return printable(name.replace("\n", "↵").replace("\t", "⇥")) or "∅"


def _break(name: str) -> str:
    return "\n" if "\n" in name else ""
