"""Targets that are built into a file: what its metadata says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fxlrp
from fxlrp.errors import ExportError, InputError


def per_pixel() -> fxlrp.Explainer:
    torch.manual_seed(0)
    return fxlrp.compile(nn.Conv2d(2, 4, 1).eval())


@pytest.mark.parametrize(
    ("target", "described"),
    [
        ((np.int64(1), 2, -1), [1, 2, -1]),
        ((1, ..., slice(2, 4)), [1, "...", "2:4"]),
        ((slice(None), slice(1, None), slice(None, None, 2)), [":", "1:", "::2"]),
        (..., ["..."]),
        (None, "largest"),
    ],
    ids=repr,
)
def test_the_metadata_has_it_in_words(target: Any, described: Any, tmp_path: Path) -> None:
    explain, x, path = per_pixel(), torch.rand(2, 2, 5, 5), tmp_path / "explain.pt2"
    explain.export(path, x, target=target)
    assert fxlrp.deploy.metadata(path)["target"] == described
    torch.testing.assert_close(torch.export.load(path).module()(x), explain(x, target=target))


@pytest.mark.parametrize(
    "target", [([1, 2], 0, 0), (torch.tensor([1, 2]), 0, 0), [1, 2], (1.5, 0, 0), (None, 0, 0)], ids=repr
)
def test_one_for_each_sample_cannot_be_built_in(target: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="target must be 'input', 'largest', an index or a tuple"):
        per_pixel().export(tmp_path / "explain.pt2", torch.rand(2, 2, 5, 5), target=target)


@pytest.mark.parametrize("target", [(1, 2), (9, 0, 0), (slice(4, 9), 0, 0)], ids=repr)
def test_one_that_does_not_fit(target: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="target"):
        per_pixel().export(tmp_path / "explain.pt2", torch.rand(2, 2, 5, 5), target=target)
