"""Exported explanations of models that upsample: ATen has some transposed maps for fixed sizes only, ONNX none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from deployed import assert_same, file_name


class Upsampled(nn.Module):
    """A convolution and its upsampled result."""

    def __init__(self, dims: int, size: tuple[int, ...], options: dict[str, Any]) -> None:
        super().__init__()
        self.convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](2, 3, 3, padding=1)
        self.size, self.options = size, options

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(F.relu(self.convolution(x) + 2), self.size, **self.options).flatten(1)


CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "nearest 1d": ((13,), {"mode": "nearest"}),
    "nearest": ((13, 3), {"mode": "nearest"}),
    "nearest 3d": ((3, 5, 9), {"mode": "nearest"}),
    "nearest exact": ((13, 3), {"mode": "nearest-exact"}),
    "nearest exact 3d": ((3, 5, 9), {"mode": "nearest-exact"}),
    "bilinear": ((13, 3), {"mode": "bilinear"}),
    "bilinear aligned": ((13, 3), {"mode": "bilinear", "align_corners": True}),
    "trilinear": ((3, 5, 9), {"mode": "trilinear"}),
    "bicubic": ((13, 9), {"mode": "bicubic"}),
}


@pytest.mark.sampled(2, "name")
@pytest.mark.parametrize("format", ["export", pytest.param("onnx", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_another_batch_size(name: str, format: Any, tmp_path: Path) -> None:
    size, options = CASES[name]
    torch.manual_seed(0)
    x = torch.randn(3, 2, *(7, 6, 4)[: len(size)])
    explain = fxlrp.compile(Upsampled(len(size), size, options).eval(), "epsilon_plus")
    path = tmp_path / file_name(format)
    explain.export(path, x[:2], format=format, target=5)
    assert_same(format, path, [(x,), (x[:1],)], [explain(x, target=5), explain(x[:1], target=5)])
