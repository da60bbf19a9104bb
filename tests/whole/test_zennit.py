"""zennit agrees where it is right: plain convolutional nets and torchvision's resnets, in float64.

What it takes to compare the same thing:
- zennit changes the model it explains, so it gets a copy.
- Its canonizers merge a BatchNorm into the convolution before it but leave the layer's `eps` behind, so every
  merged BatchNorm still divides by sqrt(1 + eps): 5e-6 off at every layer, and in the end 1 % off on resnet18.
  The copy has its `eps` moved into the variance, which is the same function.
- It propagates the gradient that it is given: the logit at the target.
"""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import zoo  # before zennit: it makes torchvision importable
from helpers import slow_ones
from oracles import assert_relevance

# isort: split
from zennit.canonizers import Canonizer, SequentialMergeBatchNorm
from zennit.composites import COMPOSITES
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

TOLERANCE = 1e-5
BOX = {"low": -3.0, "high": 3.0}

CANONIZERS: dict[str, type[Canonizer]] = {
    "vgg11_bn": VGGCanonizer,
    "resnet18": ResNetCanonizer,
    "resnet50": ResNetCanonizer,
    "googlenet": SequentialMergeBatchNorm,
    "squeezenet1_1": SequentialMergeBatchNorm,  # has none to merge
}
QUICK = "squeezenet1_1"

PRESETS: dict[str, dict[str, float]] = {
    "epsilon_plus": {},
    "epsilon_plus_flat": {},
    "epsilon_gamma_box": BOX,
    "epsilon_alpha2_beta1": {},
    "epsilon_alpha2_beta1_flat": {},
}


def zennit_relevance(name: str, model: nn.Module, x: Tensor, target: Tensor, preset: str) -> Tensor:
    logits = model(x)
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var += module.eps
            module.eps = 0.0
    options: dict[str, Any] = dict(PRESETS[preset])
    composite = COMPOSITES[preset](canonizers=[CANONIZERS[name]()], **options)
    x = x.clone().requires_grad_()
    with composite.context(model) as modified:
        output = modified(x)
        torch.testing.assert_close(output, logits)  # merged, it is still the same function
        seed = torch.zeros_like(output).scatter(1, target, output.detach().gather(1, target))
        (relevance,) = torch.autograd.grad(output, x, grad_outputs=seed)
    return relevance


@pytest.mark.sampled(2, "name")
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", [*slow_ones(*(name for name in CANONIZERS if name != QUICK)), QUICK])
def test_same_relevance_as_zennit(name: str, preset: str) -> None:
    model, x = zoo.calibrated(name, size=64)
    with torch.no_grad():
        target = model(x).argmax(1, keepdim=True)
    expected = zennit_relevance(name, model, x, target, preset)
    assert expected.isfinite().all() and expected.abs().max() > 1e-4

    rules = getattr(fxlrp.presets, preset)(**PRESETS[preset])
    assert_relevance(fxlrp.compile(model, rules=rules)(x, target=target[:, 0]), expected, TOLERANCE)
