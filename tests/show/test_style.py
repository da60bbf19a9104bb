"""Pictures do not depend on what the user has set in matplotlib, and do not change it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy
import pytest
import torch

from fxlrp import show
from fxlrp.show.figures import default_style

PICTURES: dict[str, Callable[[], show.Picture]] = {
    "grid": lambda: show.grid(
        [show.heatmap(torch.tensor([[1.0, -1.0]])), torch.rand(3, 4, 4)], titles=["a", "b"], rows=["c"], heading="d"
    ),
    "signal": lambda: show.signal(torch.linspace(0, 1, 9), torch.linspace(-1, 1, 9), channels=["x"]),
}
SETTINGS: dict[Any, Any] = {
    "figure.facecolor": "black",
    "savefig.facecolor": "black",
    "savefig.bbox": "tight",
    "savefig.dpi": 30,
    "axes.facecolor": "black",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.labelcolor": "white",
    "axes.unicode_minus": False,
    "text.color": "white",
    "font.family": "serif",
    "font.size": 30,
    "lines.linestyle": ":",
    "xtick.labelcolor": "white",
    "image.interpolation": "bicubic",
    "image.origin": "lower",
    "image.cmap": "jet",
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_style_of_the_user_is_neither_used_nor_changed(name: str) -> None:
    torch.manual_seed(0)
    expected = PICTURES[name]().image
    with matplotlib.rc_context(SETTINGS):
        torch.manual_seed(0)
        found = PICTURES[name]().image
        assert {key: matplotlib.rcParams[key] for key in SETTINGS} == SETTINGS | {"font.family": ["serif"]}
    assert found.size == expected.size
    assert (numpy.asarray(found) == numpy.asarray(expected)).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "settings", [{"font.family": "STIXGeneral"}, {"font.family": "serif", "font.serif": ["STIXGeneral"]}]
)
def test_the_fonts_of_the_user_have_the_letters_that_the_default_one_lacks(settings: dict[Any, Any]) -> None:
    text = "\u24b6 \u24bb"
    with matplotlib.rc_context(settings):
        show.grid([torch.rand(3, 4, 4)], titles=[text], rows=[text], heading=text)
        show.signal(torch.ones(4), torch.ones(4), channels=[text])


def test_threads_that_draw_at_the_same_time_leave_the_style_of_the_user() -> None:
    first_is_inside, second_is_inside, first_is_done = (threading.Event() for _ in range(3))

    def first() -> None:
        with default_style():
            first_is_inside.set()
            second_is_inside.wait(0.3)  # it has to wait outside
        first_is_done.set()

    def second() -> None:
        first_is_inside.wait()
        with default_style():
            second_is_inside.set()
            first_is_done.wait()

    with matplotlib.rc_context({"lines.linewidth": 7.0}):
        threads = [threading.Thread(target=each) for each in (first, second)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert matplotlib.rcParams["lines.linewidth"] == 7.0


def test_no_window_and_no_figure_is_left() -> None:
    import matplotlib.pyplot as plt

    before, backend = plt.get_fignums(), matplotlib.get_backend()
    for make in PICTURES.values():
        make()
    assert plt.get_fignums() == before and matplotlib.get_backend() == backend
