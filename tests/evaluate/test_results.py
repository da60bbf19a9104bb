"""The table and the picture of pixel flipping."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fxlrp.errors import InputError
from fxlrp.evaluate import Curves, Flipping, merged


def result(count: int = 2, name: str = "LRP", points: int = 3) -> Flipping:
    fractions = torch.linspace(0, 1, points, dtype=torch.float64).expand(count, -1)
    ones = torch.ones(count, 1, dtype=torch.float64)
    falling = 1 - fractions
    lerf = torch.cat([ones, ones * torch.arange(1.0, count + 1).unsqueeze(1), ones * 0], 1) if points == 3 else falling
    return Flipping({name: Curves(fractions, falling, lerf)}, torch.full((count,), 4))


def test_table() -> None:
    # MoRF: 1, 0.5, 0. LeRF: 1, 1, 0 and 1, 2, 0. SRG: 0.25 and 0.75, with the standard error 0.25.
    shown = result()
    header, _, row = shown.table().splitlines()
    assert header.split("  ") != [] and header.split() == ["explanation", "MoRF", "LeRF", "SRG", "std.", "error"]
    assert row.split() == ["LRP", "0.5", "1", "0.5", "0.25"]
    assert str(shown) == shown.table()
    # Notebooks show it as they show the other tables.
    assert shown._repr_html_() == shown.table()._repr_html_() and shown._repr_html_().count("<tr>") == 2
    assert 'class="fxlrp-table"' in shown._repr_html_() and '<td class="r">0.25</td>' in shown._repr_html_()
    assert '<td class="r"></td>' in result(1)._repr_html_()
    assert result(1).table().splitlines()[-1].split() == ["LRP", "0.5", "0.75", "0.25"]


def test_a_name_that_looks_like_a_number_stays() -> None:
    assert result(name="0.10").table().splitlines()[-1].split()[0] == "0.10"


def test_merged() -> None:
    both = merged([result(2), result(1)])
    assert both["LRP"].srg.tolist() == [0.25, 0.75, 0.25]
    assert both.regions.tolist() == [4, 4, 4]
    with pytest.raises(InputError, match="no results"):
        merged([])
    with pytest.raises(InputError, match="different explanations"):
        merged([result(), result(name="other")])
    with pytest.raises(InputError, match=r"numbers of points: \[3, 4\]"):
        merged([result(), result(points=4)])


def test_picture(tmp_path: Path) -> None:
    picture = result().picture()
    assert picture._repr_png_().startswith(b"\x89PNG")
    picture.save(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes() == picture._repr_png_()
    assert picture.image.size == (1120, 640)
    colors = picture.image.convert("RGB").getcolors(1 << 20)
    assert colors is not None
    # The colour of the first curve, as matplotlib defines it: one line and one dashed line.
    count = next(number for number, color in colors if color == (31, 119, 180))
    assert count > 200
    with pytest.raises(InputError, match=r"\.png"):
        picture.save(tmp_path / "curves.jpg")
    assert repr(picture).startswith("Picture(1120x640, scores of pixel flipping")


@pytest.mark.parametrize("name", ["$x^2$", "_hidden"])
def test_names_are_not_formulas_and_none_is_left_out(name: str) -> None:
    """The frame of the curves ends earlier by the width of each letter, also of a dollar sign and an underscore."""

    def edge(name: str) -> int:
        gray = result(name=name).picture().image.convert("L")
        return max(x for x in range(gray.width) if sum(gray.crop((x, 0, x + 1, gray.height)).histogram()[:128]) > 400)

    assert edge("i") - edge(f"{name}i") > 5
    assert edge(name.replace(name[0], "")) - edge(name) >= 8 * name.count(name[0])
