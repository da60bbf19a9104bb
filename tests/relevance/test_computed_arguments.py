"""Norms whose weights are computed from an input, values that are filled in, and bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from helpers import FRONT_ENDS
from oracles import assert_relevance, random

X, Y = random(2, 4, 3, 5), random(4, seed=1)
MEAN, VARIANCE = random(4, seed=2), random(4, seed=3).exp()
MASK, WEIGHT = torch.arange(4) % 2 == 0, random(4, 4, 1, 1, seed=4)


# What people write, and the same by products, choices and maxima, for images `x` and a vector `y`.
CALLS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "layer_norm": (
        lambda x, y: F.layer_norm(x.transpose(1, 3), (4,), y, 2 * y),
        lambda x, y: F.layer_norm(x.transpose(1, 3), (4,)) * y + 2 * y,
    ),
    "layer_norm, bias alone": (
        lambda x, y: F.layer_norm(x.transpose(1, 3), (4,), None, y),
        lambda x, y: F.layer_norm(x.transpose(1, 3), (4,)) + y,
    ),
    "rms_norm": (
        lambda x, y: F.rms_norm(x.transpose(1, 3), (4,), y, eps=1e-6),
        lambda x, y: F.rms_norm(x.transpose(1, 3), (4,), eps=1e-6) * y,
    ),
    "group_norm": (
        lambda x, y: F.group_norm(x, 2, y, 2 * y),
        lambda x, y: F.group_norm(x, 2) * y[:, None, None] + (2 * y)[:, None, None],
    ),
    "instance_norm": (
        lambda x, y: F.instance_norm(x, weight=y),
        lambda x, y: F.instance_norm(x) * y[:, None, None],
    ),
    "batch_norm": (
        lambda x, y: F.batch_norm(x, MEAN, VARIANCE, y, 2 * y),
        lambda x, y: F.batch_norm(x, MEAN, VARIANCE) * y[:, None, None] + (2 * y)[:, None, None],
    ),
    "batch_norm of a map": (
        lambda x, y: F.batch_norm(F.conv2d(x, WEIGHT), MEAN, VARIANCE, y),
        lambda x, y: F.batch_norm(F.conv2d(x, WEIGHT), MEAN, VARIANCE) * y[:, None, None],
    ),
    "masked_fill": (
        lambda x, y: x.transpose(1, 3).masked_fill(MASK, y.sum()),
        lambda x, y: torch.where(MASK, y.sum(), x.transpose(1, 3)),
    ),
    "clamp": (
        lambda x, y: x.transpose(1, 3).clamp(-y.exp(), y.exp() / 2),
        lambda x, y: torch.minimum(torch.maximum(x.transpose(1, 3), -y.exp()), y.exp() / 2),
    ),
    "clamp, upper bound alone": (
        lambda x, y: torch.clamp(x.transpose(1, 3), max=y),
        lambda x, y: torch.minimum(x.transpose(1, 3), y),
    ),
    "clamp_min": (
        lambda x, y: torch.clamp_min(x.transpose(1, 3), y),
        lambda x, y: torch.maximum(x.transpose(1, 3), y),
    ),
}


class Net(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(x, y.tanh()).flatten(1).tanh()


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("name", CALLS)
def test_the_gradient_of_computed_arguments(name: str, capture: Any) -> None:
    model = Net(CALLS[name][0]).eval()
    found = fxlrp.compile(model, "gradient", example_inputs=(X, Y), capture=capture)(X, Y, target=3)
    leaves = [each.clone().requires_grad_() for each in (X, Y)]
    gradients = torch.autograd.grad(model(*leaves)[:, 3].sum(), leaves)
    for each, gradient, key in zip((X, Y), gradients, ("x", "y"), strict=True):
        assert_relevance(found[key], each * gradient, 1e-9)


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("preset", ["epsilon", "attnlrp"])
@pytest.mark.parametrize("name", CALLS)
def test_computed_arguments_are_products_choices_and_maxima(name: str, preset: str, capture: Any) -> None:
    called, written = (Net(function).eval() for function in CALLS[name])
    assert_relevance(called(X, Y), written(X, Y), 1e-12)
    options: dict[str, Any] = {"example_inputs": (X, Y), "capture": capture}
    found, expected = (fxlrp.compile(model, preset, **options)(X, Y, target=3) for model in (called, written))
    for key in ("x", "y"):
        assert_relevance(found[key], expected[key], 1e-9)


def test_the_gradient_of_a_spatial_transformer() -> None:
    class Transformer(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            grid = F.affine_grid(y.view(1, 2, 3).expand(2, -1, -1), x.size(), align_corners=False)  # type: ignore[arg-type]
            return F.grid_sample(x, grid, align_corners=False).flatten(1)

    x, y = X, torch.tensor([1, 0.1, 0.2, -0.1, 0.9, 0.1], dtype=torch.float64)
    model = Transformer().eval()
    leaves = [each.clone().requires_grad_() for each in (x, y)]
    gradients = torch.autograd.grad(model(*leaves)[:, 7].sum(), leaves)
    captures: tuple[Any, ...] = FRONT_ENDS
    for capture in captures:
        found = fxlrp.compile(model, "gradient", example_inputs=(x, y), capture=capture)(x, y, target=7)
        for each, gradient, key in zip((x, y), gradients, ("x", "y"), strict=True):
            assert_relevance(found[key], each * gradient, 1e-9)
