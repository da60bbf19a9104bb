"""Layers whose weights are computed from an input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from fxlrp import presets
from fxlrp.errors import UnsupportedOpError
from helpers import FRONT_ENDS, assert_close, of_one, of_two
from oracles import One, assert_relevance, random

A, B = random(2, 4), random(3, 4, seed=1)
SEED = random(2, 3, seed=2)


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_a_dense_layer_shares_with_its_weight(capture: str) -> None:
    """As the product of two values does, which it is."""
    for bias in (None, random(3, seed=3)):
        product = of_two(lambda a, b, c=bias: a @ b.T if c is None else a @ b.T + c, A, B, SEED, capture=capture)
        assert_close(of_two(lambda a, b, c=bias: F.linear(a, b, c), A, B, SEED, capture=capture), product)
    of_vector = of_two(lambda a, b: F.linear(a, b[0]), A, B, SEED[:, 0], capture=capture)
    assert_close(of_vector, of_two(lambda a, b: a @ b[0], A, B, SEED[:, 0], capture=capture))


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_the_weight_takes_all_from_a_constant(capture: str) -> None:
    """LRP-0 is the gradient times the input."""
    leaf = B.clone().requires_grad_()
    out = F.linear(A, leaf)
    (gradient,) = torch.autograd.grad(out, leaf, SEED / out.detach())
    found = of_one(lambda b: F.linear(A, b), B, SEED, presets.epsilon(0.0), capture=capture)
    assert_relevance(found, B * gradient)


class Declared(nn.Module):
    """A dense layer whose weight is an input that is declared a constant."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, 2 * weight)


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_a_weight_that_is_declared_a_constant_remains_a_weight(capture: Any) -> None:
    explain = fxlrp.compile(
        Declared().eval(), "epsilon_plus", example_inputs=(A, B), constants=["weight"], capture=capture
    )
    operations = {each.operation for each in explain.balance(A, B).nodes}
    assert "linear" in operations and "matmul" not in operations


TABLES: dict[str, Callable[[Tensor], Tensor]] = {
    "embedding": lambda table: F.embedding(torch.tensor([[0, 2], [2, 1]]), table),
    "embedding_bag": lambda table: F.embedding_bag(torch.tensor([[0, 2], [2, 1]]), table, mode="sum"),
    "mean, offsets": lambda table: F.embedding_bag(torch.tensor([0, 2, 2, 1]), table, torch.tensor([0, 3])),
    "padding": lambda table: F.embedding_bag(torch.tensor([[0, 2], [2, 1]]), table, mode="sum", padding_idx=2),
    "largest": lambda table: F.embedding_bag(torch.tensor([[0, 2], [2, 1]]), table, mode="max"),
}


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("name", TABLES)
def test_a_computed_table(name: str, capture: str) -> None:
    """Relevance returns to the rows that the tokens select: LRP-0 is the gradient times the input."""

    def function(x: Tensor) -> Tensor:
        return TABLES[name](x.relu())

    x = random(3, 4, seed=4)
    leaf = x.clone().requires_grad_()
    out = function(leaf)
    u = random(*out.shape, seed=5)
    (gradient,) = torch.autograd.grad(out, leaf, u)
    assert_relevance(of_one(function, x, out.detach() * u, presets.epsilon(0.0), capture=capture), x * gradient)


KERNELS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...]]] = {
    "1 dimension": (F.conv1d, (2, 3, 7), (4, 3, 3)),
    "2 dimensions": (F.conv2d, (2, 3, 5, 6), (4, 3, 3, 2)),
    "3 dimensions": (partial(F.conv3d, stride=(1, 2, 1)), (1, 2, 4, 5, 3), (3, 2, 2, 3, 1)),
    "options": (
        partial(F.conv2d, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        (2, 4, 5, 6),
        (4, 2, 3, 2),
    ),
    "valid": (partial(F.conv2d, padding="valid"), (2, 3, 5, 6), (4, 3, 3, 2)),
    "no batch": (F.conv2d, (3, 5, 6), (4, 3, 3, 2)),
    "transposed, 1 dimension": (F.conv_transpose1d, (2, 3, 7), (3, 4, 3)),
    "transposed, 2 dimensions": (F.conv_transpose2d, (2, 3, 5, 4), (3, 4, 3, 2)),
    "transposed, 3 dimensions": (partial(F.conv_transpose3d, stride=(1, 2, 1)), (1, 2, 4, 2, 3), (2, 3, 2, 3, 1)),
    "transposed, options": (
        partial(F.conv_transpose2d, stride=(2, 3), padding=(1, 2), output_padding=(1, 0), dilation=(1, 2), groups=2),
        (2, 4, 5, 6),
        (4, 3, 3, 2),
    ),
    "transposed, cut": (partial(F.conv_transpose1d, padding=3, stride=2), (2, 3, 7), (3, 4, 2)),
}


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("name", KERNELS)
def test_a_computed_kernel(name: str, capture: str) -> None:
    """A convolution is linear in its kernel and in its input: LRP-0 of each alone is the gradient times the input."""
    function, shape, kernel_shape = KERNELS[name]
    image, kernel = random(*shape, seed=6), random(*kernel_shape, seed=7)
    channels = function(image, kernel).shape[1 - kernel.ndim]
    for bias in (None, random(channels, seed=8)):
        leaf = kernel.clone().requires_grad_()
        out = function(image, 2 * leaf, bias)
        u = random(*out.shape, seed=9)
        (gradient,) = torch.autograd.grad(out, leaf, u)
        found = of_one(
            lambda k, b=bias: function(image, 2 * k, b), kernel, out.detach() * u, presets.epsilon(0.0), capture=capture
        )
        assert_relevance(found, kernel * gradient)


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_a_convolution_shares_with_its_kernel(capture: str) -> None:
    """As the same product of matrices does."""
    image, kernel, seed = random(2, 3, 5, 6, seed=6), random(4, 3, 3, 2, seed=7), random(2, 4, 3, 5, seed=8)

    def product(a: Tensor, b: Tensor) -> Tensor:
        return (b.flatten(1) @ F.unfold(a, (3, 2))).view(2, 4, 3, 5)

    assert_close(
        of_two(F.conv2d, image, kernel, seed, capture=capture), of_two(product, image, kernel, seed, capture=capture)
    )


@pytest.mark.parametrize("rules", ["epsilon", "gradient"])
def test_the_padding_same_is_refused(rules: str) -> None:
    """No rule helps, so the message does not advise the gradient, as it does where an operation has no rule."""
    kernel = random(4, 3, 3, 2)
    layer = One(lambda k: F.conv2d(random(2, 3, 5, 6), k, padding="same")).eval()
    with pytest.raises(UnsupportedOpError, match=r"would flow into its argument 'weight'") as refused:
        fxlrp.compile(layer, rules, example_inputs=kernel)
    assert "Gradient" not in str(refused.value)
    with pytest.raises(UnsupportedOpError, match=r"Gradient\(\)"):
        fxlrp.compile(One(torch.linalg.inv).eval(), "epsilon", example_inputs=random(3, 3))


class Modulated(nn.Module):
    """A layer as in StyleGAN2: a style scales the kernels, and the batch is a group each."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.style = nn.Parameter(random(4, 3, 3, 3, seed=1)), nn.Linear(5, 3)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        kernels = self.weight[None] * self.style(style)[:, None, :, None, None]
        kernels = kernels * torch.rsqrt(kernels.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
        out = F.conv2d(x.flatten(0, 1)[None], kernels.flatten(0, 1), padding=1, groups=x.shape[0])
        return out.view(x.shape[0], 4, *x.shape[2:])


def test_modulated_kernels() -> None:
    """The gradient's relevance is the input times the gradient, in both inputs; any number of samples."""
    model = Modulated().double().eval()
    for batch in (2, 3):
        given = {"x": random(batch, 3, 6, 6, seed=2), "style": random(batch, 5, seed=3)}
        leaves = {name: value.clone().requires_grad_() for name, value in given.items()}
        out = model(**leaves)
        expected = torch.autograd.grad(out[:, 1, 2, 3].sum(), tuple(leaves.values()))
        explain = fxlrp.compile(model, "gradient", example_inputs={n: v[:2] for n, v in given.items()})
        found = explain(**given, target=(1, 2, 3))
        for name, gradient in zip(given, expected, strict=True):
            assert_relevance(found[name], given[name] * gradient)
