"""The models under test: torchvision's with random weights, brought to life by calibration, and a tiny one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.settings import Settings
from fxlrp.extras import import_torchvision

CALIBRATION_BATCH = 8


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.relu(self.bn(self.conv(x)) + x)
        return activated


def tiny() -> nn.Module:
    """A network that is measured in a moment, to try the suite itself."""
    stem = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), _Block(8), nn.MaxPool2d(2), _Block(8)]
    return nn.Sequential(*stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(8, 10))


def images(batch: int, size: int, settings: Settings) -> Tensor:
    """Random images as a normalised data set has them, the same for every contestant."""
    generator = torch.Generator().manual_seed(settings.seed)
    placed: Tensor = _place(torch.randn(batch, 3, size, size, generator=generator), settings)
    return placed


def build(name: str, size: int, settings: Settings) -> nn.Module:
    """The model ``name`` in eval mode. Its parameters ask for no gradient: nobody here wants theirs."""
    torch.manual_seed(settings.seed)
    if name == "tiny":
        model = tiny()
    else:
        options: dict[str, Any] = {"image_size": size} if name.startswith("vit") else {}
        model = import_torchvision().models.get_model(name, weights=None, **options)
    _calibrate(model.requires_grad_(False), size)
    placed: nn.Module = _place(model.eval(), settings)
    return placed


@torch.no_grad()
def _calibrate(model: nn.Module, size: int) -> None:
    """Give BatchNorm the statistics of random images, layer after layer: as made, logits would vanish."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average over all batches seen, which will be one
            module.train()
        elif isinstance(scale := getattr(module, "layer_scale", None), Tensor):
            scale.fill_(0.5)  # ConvNeXt starts it at 1e-6, which hides every block
        elif isinstance(module, nn.Linear) and not module.weight.any():  # a vision transformer's head, as made
            nn.init.trunc_normal_(module.weight, std=0.02)
    model(torch.randn(CALIBRATION_BATCH, 3, size, size))


def _place(thing: Any, settings: Settings) -> Any:
    memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    return thing.to(device=settings.device, dtype=settings.torch_dtype, memory_format=memory_format)
