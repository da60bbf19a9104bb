"""Exported explanations of attention: fused where the runtime is PyTorch, written out in ONNX."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from deployed import assert_same, file_name, formats

IDS = torch.tensor([[3, 1, 4, 1, 5], [2, 6, 5, 3, 5]])


class Language(nn.Module):
    """A language model of one block."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.norm = nn.Embedding(7, 8), nn.LayerNorm(8)
        self.qkv, self.mixed, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 7)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids)
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (2, -1)).transpose(1, 2).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        logits: Tensor = self.head(x + self.mixed(mixed.transpose(1, 2).flatten(2)))
        return logits


class Vision(nn.Module):
    """A vision transformer of two blocks that writes attention out."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 24)) for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            q, k, v = block(x).chunk(3, -1)
            x = x + (q @ k.transpose(1, 2) / 8**0.5).softmax(-1) @ v
        logits: Tensor = self.head(x.mean(1))
        return logits


@pytest.mark.slow
@pytest.mark.parametrize("format", formats(compiled_repeats=True))
def test_a_vision_transformer(format: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 16, 16)
    explain = fxlrp.compile(Vision().eval(), "attnlrp", example_inputs=images)
    path = tmp_path / file_name(format)
    explain.export(path, images, format=format, target=3)  # type: ignore[arg-type]
    assert_same(format, path, [(images,), (images[:1],)], [explain(images, target=3), explain(images[:1], target=3)])


@pytest.mark.slow
@pytest.mark.parametrize("format", formats())
def test_a_language_model(format: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    explain = fxlrp.compile(Language().eval(), "attnlrp", example_inputs=IDS)
    path = tmp_path / file_name(format)
    explain.export(path, IDS, format=format, target=(3, 2))  # type: ignore[arg-type]
    calls = [(IDS,), (IDS.repeat(2, 1),)]
    assert_same(format, path, calls, [explain(*call, target=(3, 2)) for call in calls])
    if format == "aoti":
        assert_fused_kernels_are_compiled(path)


def assert_fused_kernels_are_compiled(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        sources = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".wrapper.cpp"))
    kernel = b"_scaled_dot_product_flash_attention_for_cpu"
    assert kernel + b"(" in sources and kernel + b"_backward(" in sources


def test_a_file_for_pytorch_keeps_the_fused_kernels(tmp_path: Path) -> None:
    explain = fxlrp.compile(Language().eval(), "attnlrp", example_inputs=IDS)
    explain.export(tmp_path / "explain.pt2", IDS, target=(3, 2))
    called = {str(node.target) for node in torch.export.load(tmp_path / "explain.pt2").graph.nodes}
    kernel = "aten._scaled_dot_product_flash_attention_for_cpu"
    assert {f"{kernel}.default", f"{kernel}_backward.default"} <= called
