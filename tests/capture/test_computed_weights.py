"""Weights that are computed from others: parametrizations, pruning, sharing."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

import zoo
from helpers import assert_is_gradient, lrp0
from oracles import random, randomize
from traces import Unchanged


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def weight_norm(layer: nn.Module) -> nn.Module:
    return parametrizations.weight_norm(layer)


def weight_norm_over_all(layer: nn.Module) -> nn.Module:
    return parametrizations.weight_norm(layer, dim=None)  # type: ignore[arg-type]


def spectral_norm(layer: nn.Module) -> nn.Module:
    return parametrizations.spectral_norm(layer)


def halved(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Halved())
    return parametrize.register_parametrization(layer, "bias", Halved())


def pruned(layer: nn.Module) -> nn.Module:
    return prune.l1_unstructured(layer, "weight", amount=0.3)


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


def old_spectral_norm(layer: nn.Module) -> nn.Module:
    return nn.utils.spectral_norm(layer)


COMPUTED = [weight_norm, weight_norm_over_all, spectral_norm, halved, pruned, old_weight_norm, old_spectral_norm]


@pytest.mark.parametrize("computed", COMPUTED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_computed_weights(computed: Callable[[nn.Module], nn.Module], kind: str) -> None:
    """Compiled right, live, and with the classes, the parameters and the hooks that do it left where they are."""
    make = {"linear": lambda: nn.Linear(5, 5), "conv": lambda: nn.Conv1d(5, 5, 1)}[kind]
    x = random(3, 5) if kind == "linear" else random(3, 5, 4)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layer = computed(make().double())
    model = nn.Sequential(layer, nn.ReLU(), make().double(), nn.Flatten()).eval()
    with torch.no_grad():
        model(x)  # the old spellings compute their weight when the layer is called
    names = [name for name, _ in model.named_parameters()]
    with Unchanged(model):
        explain = lrp0(model.eval())
        explain(x)
    assert_is_gradient(explain(x), model, x)
    assert [name for name, _ in model.named_parameters()] == names
    before = explain(x)
    with torch.no_grad():
        for parameter in model[0].parameters():
            # another length and another direction
            parameter.copy_(parameter * 1.5 + random(*parameter.shape, seed=11) if parameter.dim() else parameter * 1.5)
        model(x)
    assert_is_gradient(explain(x), model, x)
    assert (explain(x) - before).abs().max() > 1e-3


def test_parametrized_weights_with_batch_norm_fold() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.Flatten()).double()
    zoo.initialise(model)
    x = random(2, 3, 5, 5)
    zoo.calibrate(model, x)
    explain = lrp0(model.eval())
    assert not [node for node in explain.nodes if node.target is F.batch_norm]
    assert_is_gradient(explain(x), model, x)


def test_weights_shared_by_two_modules_are_one_tensor() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.decode.weight = self.encode.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.decode(torch.relu(self.encode(x)))

    tied, x = Tied(), random(2, 4)
    model = randomize(tied)
    with Unchanged(model):
        explain = lrp0(model.eval())
    with torch.no_grad():
        tied.encode.weight.mul_(1.5)
    assert tied.decode.weight is tied.encode.weight
    assert_is_gradient(explain(x), model, x)
