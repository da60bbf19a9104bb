"""Other libraries for LRP, each used as its documentation says, through its public interface alone.

What can be set up before the call is set up before the call. Each gets a copy of the model, since all of them change
the model that they explain. A preset that a library has no rules for is refused with :class:`NotOffered`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxlrp.extras import import_torchvision

Explain = Callable[[], Tensor]
Box = Mapping[str, float]


class NotOffered(Exception):
    """The library has no rules for the preset."""


def zennit(model: nn.Module, images: Tensor, preset: str, box: Box) -> Explain:
    """zennit: composites under the same names, BatchNorm merged by its canonizers as far as they go."""
    import_torchvision()  # zennit imports it, and may not know how
    from zennit.composites import COMPOSITES, LayerMapComposite, layer_map_base
    from zennit.rules import Epsilon
    from zennit.types import Linear

    canonizers = [_zennit_canonizer(model)]
    if preset == "epsilon":
        composite = LayerMapComposite([*layer_map_base(), (Linear, Epsilon())], canonizers=canonizers)
    else:
        options = box if preset == "epsilon_gamma_box" else {}
        composite = COMPOSITES[preset](canonizers=canonizers, **options)

    model = copy.deepcopy(model)
    for module in model.modules():
        # Merging leaves `eps` behind, and every merged BatchNorm divides by sqrt(1 + eps) once more.
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var += module.eps
            module.eps = 0.0
    composite.register(model)

    def explain() -> Tensor:
        x = images.detach().requires_grad_()
        output = model(x)
        value, target = output.detach().max(1, keepdim=True)
        (relevance,) = torch.autograd.grad(output, x, torch.zeros_like(output).scatter(1, target, value))
        return relevance

    return explain


def _zennit_canonizer(model: nn.Module) -> Any:
    from zennit.canonizers import NamedMergeBatchNorm, SequentialMergeBatchNorm
    from zennit.torchvision import ResNetCanonizer

    family = type(model).__name__
    if family == "ResNet":
        return ResNetCanonizer()
    if family == "DenseNet":  # most of its BatchNorms have no convolution before them
        layers = [name.removesuffix("norm2") for name, _ in model.named_modules() if name.endswith("norm2")]
        pairs = [([f"{layer}conv1"], f"{layer}norm2") for layer in layers]
        return NamedMergeBatchNorm([(["features.conv0"], "features.norm0"), *pairs])
    return SequentialMergeBatchNorm()


def captum(model: nn.Module, images: Tensor, preset: str, box: Box) -> Explain:
    """captum: rules by module. It is told the target, which it does not find by itself."""
    from captum.attr import LRP

    if preset != "epsilon":
        raise NotOffered("has no flat, z^B or alpha-beta rule")
    model = copy.deepcopy(model)
    modules: Iterable[Any] = model.modules()
    for module in modules:
        if hasattr(module, "inplace"):
            module.inplace = False  # its hooks do not survive the change
    with torch.no_grad():
        target = model(images).argmax(1)

    def explain() -> Tensor:
        relevance: Tensor = LRP(model).attribute(images.detach(), target=target)
        return relevance

    return explain


def autolrp(model: nn.Module, images: Tensor, preset: str, box: Box) -> Explain:
    """autolrp: rules by autograd node."""
    import autolrp as library

    if preset.endswith("flat"):
        raise NotOffered("has no flat rule")
    rule: dict[str, Any] = dict(library.BASE)
    if preset == "epsilon_gamma_box":
        rule |= {"ConvolutionBackward": ("gamma", {"gamma": 0.25}), "input_conv": ("zbox", dict(box))}
    config = library.LRPConfig(rule=rule, eps=1e-6)
    model = copy.deepcopy(model)

    def explain() -> Tensor:
        x = library.tensor(images)
        output = model(x)
        chosen = output.gather(1, output.detach().argmax(1, keepdim=True))
        chosen.sum().lrp(config=config)
        # The seed is one, which the sum shares among the images by the size of their logits.
        relevance: Tensor = x.relevance * chosen.detach().abs().sum()
        return relevance

    return explain


PEERS: Mapping[str, Callable[[nn.Module, Tensor, str, Box], Explain]] = {
    "zennit": zennit,
    "captum": captum,
    "autolrp": autolrp,
}
