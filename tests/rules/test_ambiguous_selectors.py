"""A selector that is the name of an operation and of a module."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import FxlrpWarning
from fxlrp.rules import Gamma
from helpers import FRONT_ENDS


class Net(nn.Module):
    def __init__(self, *, several: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.head: nn.Module = nn.Linear(4, 2) if several else nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.linear(x)))
        return out


def selected(explain: fxlrp.Explainer) -> list[str]:
    return [node.name for node in explain.nodes if "fxlrp" in node.meta and node.meta["fxlrp"].rule == Gamma(0.1)]


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_a_warning_says_that_all_operations_are_selected(capture: Any) -> None:
    model, x = Net(several=True).eval(), torch.rand(1, 4)
    with pytest.warns(FxlrpWarning, match=r"every operation linear, such as the node 'head'.*'\[l\]inear'") as found:
        explain = fxlrp.compile(model, [("linear", Gamma(0.1))], example_inputs=x, capture=capture)
    assert len(found) == 1 and selected(explain) == ["linear", "head"]


@pytest.mark.parametrize("selector", ["[l]inear", nn.Linear, lambda node: "linear" in str(node.target)])
def test_no_warning_for_what_is_explicit(selector: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FxlrpWarning)
        explain = fxlrp.compile(Net(several=True).eval(), [(selector, Gamma(0.1))])
    assert selected(explain) == (["linear"] if selector == "[l]inear" else ["linear", "head"])


def test_no_warning_where_both_mean_the_same() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FxlrpWarning)
        explain = fxlrp.compile(Net(several=False).eval(), [("linear", Gamma(0.1))])
    assert selected(explain) == ["linear"]


def test_no_warning_for_an_operation_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FxlrpWarning)
        fxlrp.compile(model, [("linear", Gamma(0.1))])
