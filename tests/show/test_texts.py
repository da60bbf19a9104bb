"""Tokens with their relevance: HTML, colors of terminals, plain text."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from fxlrp import show
from fxlrp.errors import InputError


class Spans(HTMLParser):
    """The tokens in HTML: text, title and style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.spans: list[tuple[str, str, str]] = []
        self.tags: set[str] = set()
        self._open: tuple[str, str] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attrs)
        if tag == "span" and found.get("title"):
            self._open = (found["title"] or "", found["style"] or "")
            self.spans.append(("", *self._open))

    def handle_endtag(self, tag: str) -> None:
        if tag == "span":
            self._open = None

    def handle_data(self, data: str) -> None:
        if self._open:
            text, *rest = self.spans[-1]
            self.spans[-1] = (text + data, *rest)  # type: ignore[assignment]


NASTY = ["<script>alert(1)</script>", '" onmouseover="x', "a&b", "</span>", "\x1b[31m", "\x00", "", "\n", " the", "é漢"]


def test_every_token_is_on_the_color_of_its_relevance() -> None:
    found = Spans(show.tokens(["no", "yes", "or"], [-2.0, 2.0, 0.0])._repr_html_()).spans
    assert [(text, title) for text, title, _ in found] == [("no", "no: −2"), ("yes", "yes: +2"), ("or", "or: 0")]
    backgrounds = [re.search(r"background:(#\w+);color:(#\w+)", style) for _, _, style in found]
    assert [each and each.groups() for each in backgrounds] == [
        ("#08519c", "#ffffff"),
        ("#a50f15", "#ffffff"),
        ("#ffffff", "#000000"),
    ]


def test_tokens_are_escaped() -> None:
    found = Spans(show.tokens(NASTY, torch.linspace(-1, 1, len(NASTY)))._repr_html_())
    assert found.tags == {"div", "span"}
    assert [text for text, _, _ in found.spans] == [*NASTY[:4], "\\x1b[31m", "\\x00", "∅", "↵", " the", "é漢"]


def test_control_characters_do_not_reach_the_terminal() -> None:
    shown = show.tokens(NASTY, torch.zeros(len(NASTY)))
    assert "\x1b" not in shown.text and "\x00" not in shown.text
    without_colors = re.sub(r"\x1b\[[\d;]*m", "", shown.colors)
    assert "\x1b" not in without_colors and "\\x1b[31m" in without_colors


def test_the_text_has_a_line_for_each_token() -> None:
    *lines, caption = show.tokens(["a", "bcd", "漢"], [0.5, -1.0, 0.0]).text.splitlines()
    assert lines == ["a    +0.5  ++++++++++++", "bcd    -1  " + "-" * 24, "漢      0"]
    assert caption == "full color at ±1 (the largest), sum -0.5"


# Hindi and Thai with vowel signs above and below letters, Persian with a non-joiner, an accent of its own.
@pytest.mark.parametrize(
    ("token", "width"), [("नमस्ते", 4), ("สวัสดี", 4), ("می\u200cخواهم", 7), ("e\u0301", 1), ("漢", 2), ("אב", 2)]
)
def test_marks_take_no_column(token: str, width: int) -> None:
    lines = show.tokens([token, "0123456"], [1.0, 1.0]).text.splitlines()
    assert lines[0] == f"{token}{' ' * (7 - width)}  +1  {'+' * 24}"


def test_joiners_are_kept_where_they_join() -> None:
    found = Spans(show.tokens(["👩\u200d🔬", "\u200d", "\u202ea"], [1.0, 1.0, 1.0]).html).spans
    assert [text for text, _, _ in found] == ["👩\u200d🔬", "\\u200d", "\\u202ea"]


def test_print_has_colors_in_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = show.tokens(["a"], [1.0])
    for variable in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(variable, raising=False)
    assert str(shown) == shown.text
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert str(shown) == shown.colors
    assert shown.colors.startswith("\x1b[48;2;165;15;21m\x1b[38;2;255;255;255ma\x1b[0m")
    monkeypatch.setenv("NO_COLOR", "1")
    assert str(shown) == shown.text


def test_a_line_break_ends_the_line() -> None:
    shown = show.tokens(["a", "\n", "b"], [1.0, 1.0, 1.0])
    assert re.sub(r"\x1b\[[\d;]*m", "", shown.colors).splitlines()[:2] == ["a ↵", "b"]
    assert "</span>\n<span" in shown.html


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1, 3, 4)])
def test_the_features_of_embeddings_are_summed(shape: tuple[int, ...]) -> None:
    relevance = torch.arange(1.0, 1 + math.prod(shape)).reshape(shape)
    expected = relevance.reshape(3, -1).sum(-1)
    lines = show.tokens(["a", "b", "c"], relevance).text.splitlines()
    assert [float(line.split()[1]) for line in lines[:3]] == expected.tolist()


def test_the_scale() -> None:
    assert show.tokens(["a", "b"], [1.0, -4.0]).scale == 4
    assert show.tokens(["a", "b"], [1.0, -4.0], quantile=0.5).scale == 2.5
    assert show.tokens(["a", "b"], [1.0, -4.0], scale=8).caption == "full color at ±8 (given), sum -3"
    assert show.tokens(["a"], [0.0]).caption == "all relevance is zero, sum 0"


def test_the_mark_of_a_space_is_shown_as_one() -> None:
    assert [span[0] for span in Spans(show.tokens(["Ġthe", "cat"], [1.0, 0.0], space="Ġ").html).spans] == [
        " the",
        "cat",
    ]
    assert [span[0] for span in Spans(show.tokens(["Ġorġ"], [1.0]).html).spans] == ["Ġorġ"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_precision_and_a_gradient(dtype: torch.dtype) -> None:
    relevance = torch.tensor([[0.5, -1.0]], dtype=dtype, requires_grad=True)
    assert show.tokens(["a", "b"], relevance).scale == 1


def test_tokens_of_a_language_model() -> None:
    import fxlrp

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 2)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(ids).sum(1))

    relevance = fxlrp.compile(Net().eval(), "epsilon")(torch.tensor([[3, 1, 4]]), target=1)
    lines = show.tokens(["a", "b", "c"], relevance).text.splitlines()
    assert [float(line.split()[1]) for line in lines[:3]] == pytest.approx(relevance[0].tolist(), rel=5e-3)


def test_saved_pages_need_no_other_file(tmp_path: Path) -> None:
    shown = show.tokens(NASTY, torch.linspace(-1, 1, len(NASTY)))
    shown.save(tmp_path / "tokens.html")
    page = (tmp_path / "tokens.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and shown.html in page and '<meta charset="utf-8">' in page
    assert not re.search(r"src=|href=|url\(|<script>", page)
    with pytest.raises(InputError, match=r"does not end in \.html"):
        shown.save(tmp_path / "tokens.png")


WRONG: dict[str, tuple[tuple[Any, Any], str]] = {
    "batch": ((["a", "b"], torch.zeros(2, 2)), r"has 2 samples: pass one of them, relevance\[0\].*relevance.sum\(-1\)"),
    "length": ((["a", "b"], torch.zeros(3)), r"there are 2 tokens, but relevance of shape \(3,\) is that of 3"),
    "shape": ((["a"], torch.zeros(1, 1, 1, 1)), r"is not \(length,\), \(1, length\) or \(1, length, features\)"),
    "NaN": ((["a"], [float("nan")]), r"relevance of shape \(1,\) has 1 NaN"),
    "text": (("ab", [1.0, 2.0]), "tokens='ab' is not a sequence of strings"),
    "numbers": (([1, 2], [1.0, 2.0]), "tokens contains 1, which is not a string"),
    "no text": ((["a", None], [1.0, 2.0]), "tokens contains None, which is not a string"),
    "none": (([], []), "relevance of shape .* is empty"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tokens_are_errors(name: str) -> None:
    arguments, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        show.tokens(*arguments)
    with pytest.raises(InputError, match="space="):
        show.tokens(["a"], [1.0], space="")
