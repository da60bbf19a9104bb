"""keep_constants: what depends on weights alone is kept from call to call."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
import zoo
from fxlrp import Optimizations, rules
from helpers import modules_of, slow_ones
from optimization_checks import CONFIGURATIONS, assert_same, calibrated, counts, kernels, untrained
from optimization_nets import PRESETS
from oracles import random

X, Y = random(3, 6, seed=3), random(3, 6, seed=4)


def folded(model: nn.Module) -> int:
    return modules_of(model, *zoo.BATCH_NORMS)


@pytest.mark.parametrize(
    ("name", "preset", "count"),
    [
        ("vgg16", "epsilon", 0),
        # Without BatchNorm: a weight and a bias of the rule for every convolution, and W- for the negative part of the
        # image.
        ("vgg16", "epsilon_plus", 2 * 13 + 1),
        # W + gamma W+, and its bias, behind a ReLU; nothing where ZBox computes its own.
        ("vgg16", "epsilon_gamma_box", 2 * 12),
        # |W-| and its bias, and W+ for the way back; W- and -W+ for the negative part of the image.
        ("vgg16", "epsilon_alpha2_beta1", 3 * 13 + 2),
        # BatchNorm folds into a weight and a bias each, in all 20 convolutions.
        ("resnet18", "epsilon", 2 * 20),
        ("resnet18", "epsilon_plus", 2 * 20 + 2 * 20 + 1),
        ("resnet18", "epsilon_plus_flat", 2 * 20 + 2 * 19),
    ],
)
def test_keep_constants_counts(name: str, preset: str, count: int) -> None:
    model = untrained(name)
    assert (modules_of(model, nn.Conv2d), folded(model)) == ((13, 0) if name == "vgg16" else (20, 20))
    assert counts(model, PRESETS[preset])["keep_constants"] == count


class TwoReadersOfAConstant(nn.Module):
    """A computed weight is used as it is, by a gate that no relevance reaches, and what an activation makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(random(6, 6, seed=8)), nn.Parameter(random(6, 6, seed=9))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.left + self.right
        gate = torch.sigmoid(F.linear(x, weight))
        return F.linear(F.relu(x) * gate, torch.relu(weight))


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_constants_with_two_readers(configuration: str) -> None:
    for rule in (rules.ZPlus(), rules.Epsilon(), rules.Gamma()):
        assert_same(TwoReadersOfAConstant().eval(), [("linear", rule)], X, configurations=[configuration])


class Noisy(nn.Module):
    """A new weight at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + torch.randn_like(self.weight))


def test_random_weights_are_no_constants() -> None:
    explain = fxlrp.compile(Noisy().eval())
    x = torch.randn(2, 6)
    assert not torch.equal(explain(x), explain(x))


@pytest.mark.parametrize("preset", ["epsilon_plus", "epsilon_alpha2_beta1"])
@pytest.mark.parametrize("name", [*slow_ones("resnet18"), "squeezenet1_0"])
def test_constants_are_kept(name: str, preset: str) -> None:
    """A second call makes no tensor of a weight's shape; after a change of one weight it does, and then no more."""
    model, x = calibrated(name, torch.float32, 64)
    chosen = PRESETS[preset].override([(rules.FirstLayer(), rules.Epsilon())])
    explain = fxlrp.compile(model, chosen)
    fresh = fxlrp.compile(model, chosen, optimize=dataclasses.replace(Optimizations(), keep_constants=False))
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    shapes = [tuple(module.weight.shape) for module in convolutions]

    def made(asked: fxlrp.Explainer) -> int:
        return kernels(asked, x, shapes=shapes).of_shape.total()

    first = made(explain)
    assert first >= len(convolutions) - 1
    assert (made(explain), made(explain)) == (0, 0)
    with torch.no_grad():
        convolutions[3].weight.add_(0.0)
    assert (made(explain), made(explain)) == (first, 0)
    assert made(fresh) >= len(convolutions) - 1 <= made(fresh)
    if name == "resnet18":
        # Two for each BatchNorm: its weight and its bias.
        assert (kernels(explain, x).count["rsqrt"], kernels(fresh, x).count["rsqrt"]) == (0, 2 * 20)
