"""Tensors that hide parameters in instance dictionaries, as other libraries leave them behind, are those that count."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import fxlrp
from helpers import LRP0
from oracles import assert_relevance, random
from zoo import gradient_times_input


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(1))
    return model.double().eval()


@pytest.mark.parametrize("capture", ["symbolic", "export"])
@pytest.mark.parametrize("kind", ["tensor", "the same parameter", "another parameter", "buffer"])
def test_a_tensor_that_hides_a_parameter(kind: str, capture: Any) -> None:
    model, x = net(), random(2, 1, 5, 5)
    norm = model[1]
    if kind == "tensor":
        norm.__dict__["weight"] = 3 * norm.weight.detach()  # type: ignore[operator]
    elif kind == "the same parameter":
        norm.__dict__["weight"] = norm.weight
    elif kind == "another parameter":
        model[0].__dict__["weight"] = nn.Parameter(-2 * model[0].weight.detach())  # type: ignore[operator]
    else:
        norm.__dict__["running_var"] = 4 * norm.running_var  # type: ignore[operator]
    before = copy.deepcopy(model.state_dict())
    hidden = [dict(vars(module)) for module in model.modules()]
    explain = fxlrp.compile(model, LRP0, example_inputs=x, capture=capture)
    (expected,) = gradient_times_input(model, x, select=lambda y: y[:, 1].sum())
    assert_relevance(explain(x, target=1), expected, 1e-12)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for module, names in zip(model.modules(), hidden, strict=True):
        assert vars(module).keys() == names.keys() and all(vars(module)[name] is names[name] for name in names)
