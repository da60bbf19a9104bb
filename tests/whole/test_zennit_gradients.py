"""zennit agrees on excitation backpropagation and on the modified gradients, in float64.

Its modified gradients start with 1 at the target and do not merge BatchNorms, which does not change a gradient.
Excitation backpropagation starts with the logit, and merges them; test_zennit.py says what that takes. zennit adds the
biases of z+ to the denominators, as fxlrp does.
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
from torchvision.models.resnet import BasicBlock
from zennit.canonizers import Canonizer, SequentialMergeBatchNorm
from zennit.composites import BetaSmooth, DeconvNet, ExcitationBackprop, GuidedBackprop
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

TOLERANCE = 1e-5

CANONIZERS: dict[str, type[Canonizer]] = {
    "vgg16_bn": VGGCanonizer,
    "googlenet": SequentialMergeBatchNorm,
    "resnet18": ResNetCanonizer,
}
MODELS = [*slow_ones("vgg16_bn", "googlenet"), "resnet18"]
GRADIENTS: dict[str, Any] = {"guided_backprop": GuidedBackprop, "deconvnet": DeconvNet, "beta_smooth": BetaSmooth}


def from_zennit(composite: Any, model: nn.Module, x: Tensor, seed: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    with composite.context(model) as modified:
        (found,) = torch.autograd.grad(modified(x), x, grad_outputs=seed)
    return found


class TurnByTurn(nn.Module):
    """Two ReLUs that take turns: zennit keeps the input of the last call of a module only."""

    def __init__(self) -> None:
        super().__init__()
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(2))
        self.turn = 0

    def forward(self, x: Tensor) -> Tensor:
        self.turn = 1 - self.turn
        return self.relus[self.turn](x)


def separate_relus(model: nn.Module) -> nn.Module:
    """A copy whose ReLUs are not in place, which would overwrite what zennit keeps, and called once each."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, BasicBlock):
            module.relu = TurnByTurn()
        elif isinstance(module, nn.ReLU):
            module.inplace = False
    return model


@pytest.mark.parametrize("preset", GRADIENTS)
@pytest.mark.parametrize("name", ["vgg16_bn", "resnet18"])
def test_same_modified_gradient_as_zennit(name: str, preset: str) -> None:
    model, x = zoo.calibrated(name, size=32)
    with torch.no_grad():
        target = model(x).argmax(1, keepdim=True)
        seed = torch.zeros_like(model(x)).scatter(1, target, 1.0)
    expected = from_zennit(GRADIENTS[preset](), separate_relus(model), x, seed)
    assert expected.isfinite().all() and expected.abs().max() > 1e-4
    explain = fxlrp.compile(model, preset)
    assert_relevance(explain(x, target=target[:, 0]), expected, TOLERANCE)
    if name == "resnet18":
        assert_relevance(explain(x), expected, TOLERANCE)
        assert_relevance(explain(x, seed=seed), expected, TOLERANCE)


@pytest.mark.parametrize("name", MODELS)
def test_same_excitation_backpropagation_as_zennit(name: str) -> None:
    model, x = zoo.calibrated(name, size=64)
    with torch.no_grad():
        output = model(x)
    target = output.argmax(1, keepdim=True)
    seed = torch.zeros_like(output).scatter(1, target, output.gather(1, target))
    merged = copy.deepcopy(model)
    for module in merged.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var += module.eps
            module.eps = 0.0
    expected = from_zennit(ExcitationBackprop(canonizers=[CANONIZERS[name]()]), merged, x, seed)
    assert expected.isfinite().all() and expected.abs().max() > 1e-4
    assert_relevance(fxlrp.compile(model, "excitation_backprop")(x, target=target[:, 0]), expected, TOLERANCE)
