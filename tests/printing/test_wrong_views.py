"""Arguments of a table of another type, and a table without operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxlrp
from fxlrp.errors import InputError

EXPLAIN = fxlrp.compile(nn.Sequential(nn.Linear(3, 2), nn.ReLU()).eval(), example_inputs=torch.rand(1, 3))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"hide": 3}, "hide must be a name, or a list of names, not 3"),
        ({"hide": None}, "hide must be a name, or a list of names, not None"),
        ({"hide": ["why", 3]}, r"hide must be a name, or a list of names, not \['why', 3\]"),
        ({"relevance": 1}, "relevance must be True, False or None, not 1"),
        ({"fold": 0}, "fold must be True, False or None, not 0"),
        ({"constants": "no"}, "constants must be True or False, not 'no'"),
    ],
)
def test_an_argument_of_another_type(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        EXPLAIN.table(**arguments)


def test_a_table_of_a_parameter() -> None:
    assert EXPLAIN.table(only="0.weight").splitlines()[-2:] == ["0 operations", "0 rules"]
