"""Iterating over an explanation node by node."""

from __future__ import annotations

import torch
from torch import nn

import fxlrp


def test_nodes_in_order() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    relevances = fxlrp.compile(model).debug(torch.rand(2, 4), target=1)
    assert [each.node for each in relevances] == ["_2", "_1", "_0", "input_1"]
    assert tuple(relevances) == relevances.nodes and len(relevances) == 4
    assert all(relevances[each.node] is each for each in relevances)
    assert "_1" in relevances and relevances.nodes[0] in relevances
    assert "nothing" not in relevances and 0 not in relevances
