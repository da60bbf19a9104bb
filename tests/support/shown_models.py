"""Models whose annotated graph is shown as a page."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fxlrp.extras import import_torchvision


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x)))) + x


class Twice(nn.Module):
    """A block that is called twice, a functional call in the root, a size, and a value that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.block(x))
        x = (x + x).view(x.shape[0], -1)
        return self.head(torch.tanh(x))  # </script><!-- <b>a comment that is in the page</b>


class Gated(nn.Module):
    """A gate, through which no relevance flows."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.gate = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * torch.sigmoid(self.gate(x))


def small_resnet() -> nn.Module:
    """The operations and the modules of a resnet18, with few channels."""
    torchvision = import_torchvision()
    torch.manual_seed(0)
    blocks = torchvision.models.resnet.BasicBlock
    model: nn.Module = torchvision.models.ResNet(blocks, [2, 2, 2, 2], num_classes=5, width_per_group=64)
    return model.eval()


def small_transformer() -> nn.Module:
    """A vision transformer of twelve layers, narrow."""
    torchvision = import_torchvision()
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 8, "num_layers": 12, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
    model: nn.Module = torchvision.models.VisionTransformer(num_classes=5, **sizes)
    nn.init.normal_(model.get_submodule("heads.head").weight)  # type: ignore[arg-type]
    return model.eval()
