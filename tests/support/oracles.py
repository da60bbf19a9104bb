"""Relevance on dense matrices, written from the definitions and from nothing else.

Every linear map is expanded to its matrix (from its Jacobian), and every rule is written in its textbook
form: the contribution of input j to output k is a number `c[k, j]`, and the output's relevance is divided in
proportion to it,

    R_in[j] = sum_k  c[k, j] / s(sum_j c[k, j] + bias_k) * R[k],      s(z) = z + eps * sgn(z),  sgn(0) = +1.

No transposed convolution, no split of inputs or weights into parts: the code under test works with those, so
an error in one cannot hide in the other. Shapes: inputs (B, n), relevance (B, m), matrices (m, n),
contributions (B, m, n).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6

M = TypeVar("M", bound=nn.Module)


def stabilize(z: Tensor, epsilon: float = EPSILON) -> Tensor:
    """s(z) = z + eps * sgn(z) with sgn(0) = +1; for LRP-0, zeros become ones, so that 0 / 0 is 0."""
    if epsilon == 0:
        return torch.where(z == 0, torch.ones_like(z), z)
    return torch.where(z < 0, z - epsilon, z + epsilon)


def positive(t: Tensor) -> Tensor:
    return torch.where(t > 0, t, torch.zeros_like(t))


def negative(t: Tensor) -> Tensor:
    return torch.where(t < 0, t, torch.zeros_like(t))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """max |actual - expected| / max |expected|; not a number if anything in either is not a number."""
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, expected {expected.dtype}"
    scale = float(expected.abs().max())
    return float((actual - expected).abs().max()) / (scale if scale != 0 else 1.0)


def assert_relevance(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert bool(expected.isfinite().all()), "the oracle itself is not finite"
    error = relative_error(actual, expected)
    # NaN is not <= anything, so it fails here
    assert error <= tolerance, f"relative error {error:.3g} > {tolerance:.3g}\n{actual}\nexpected\n{expected}"


# Dense matrices


@dataclass(frozen=True)
class DenseMap:
    """`f(x) = weight x + bias` on flattened samples; `taps` is 1 where a weight connects, also one of 0."""

    weight: Tensor
    bias: Tensor
    taps: Tensor
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


def jacobian(function: Callable[[Tensor], Tensor], shape: Sequence[int]) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Matrix and bias of a function that is affine in a sample of this shape, and the shape of its output."""
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    bias = function(zero).detach()
    matrix = torch.autograd.functional.jacobian(function, zero)
    assert isinstance(matrix, Tensor)
    return matrix.reshape(bias.numel(), zero.numel()), bias.reshape(-1), tuple(bias.shape[1:])


def dense_map(layer: nn.Module, shape: Sequence[int], *, taps_of: nn.Module | None = None) -> DenseMap:
    """The matrix of a layer; `taps_of` is the layer whose weights say what is connected, if not itself."""
    weight, bias, output_shape = jacobian(layer, shape)
    ones = copy.deepcopy(taps_of or layer)
    with torch.no_grad():
        for name, parameter in ones.named_parameters():
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    taps, _, _ = jacobian(ones, shape)
    # One tap for one pair of units: then W², W⁺, ... of the matrix are those of the layer's weights.
    assert bool(((taps == 0) | (taps == 1)).all())
    assert bool((weight[taps == 0] == 0).all())
    return DenseMap(weight, bias, taps, tuple(shape), output_shape)


def move_back(function: Callable[[Tensor], Tensor], x: Tensor, relevance: Tensor) -> Tensor:
    """Relevance through a map that only moves, duplicates or drops elements: what was duplicated adds up.

    That is the vector-Jacobian product of the map, R_in = Jᵀ R with J a matrix of zeros and ones.
    """
    x = x.detach().clone().requires_grad_(True)
    (moved,) = torch.autograd.grad(function(x), x, relevance)
    return moved


# nn.Conv*d with a padding mode other than zeros is a pad followed by a convolution without padding.


def pad_amounts(conv: Any) -> list[int]:
    """The amounts as F.pad wants them (last dimension first), from the definition of each kind of padding."""
    amounts: list[int] = []
    for i in reversed(range(len(conv.kernel_size))):
        if conv.padding == "valid":
            amounts += [0, 0]
        elif conv.padding == "same":
            total = conv.dilation[i] * (conv.kernel_size[i] - 1)
            amounts += [total // 2, total - total // 2]
        else:
            amounts += [conv.padding[i], conv.padding[i]]
    return amounts


def split_padding(layer: Any) -> tuple[Callable[[Tensor], Tensor], nn.Module]:
    """(pad, convolution without it) where the padding is not by zeros, else (identity, layer)."""
    if getattr(layer, "padding_mode", "zeros") == "zeros":
        return (lambda x: x), layer
    amounts, mode = pad_amounts(layer), layer.padding_mode
    unpadded = type(layer)(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        stride=layer.stride,
        dilation=layer.dilation,
        groups=layer.groups,
        bias=layer.bias is not None,
        dtype=torch.float64,
    )
    unpadded.load_state_dict(layer.state_dict())
    return (lambda x: F.pad(x, amounts, mode=mode)), unpadded


# Linear rules. x: (B, n), R: (B, m); the relevance (B, n).


def share(contributions: Tensor, absorbed: Tensor, relevance: Tensor, epsilon: float) -> Tensor:
    """R_in[j] = sum_k c[k, j] / s(sum_j c[k, j] + absorbed[k]) R[k]; `absorbed` is what a bias keeps."""
    denominator = stabilize(contributions.sum(-1) + absorbed, epsilon)
    # Where nothing contributes nothing flows, also at epsilon = 0, where 0 / 0 would say otherwise.
    empty = (contributions == 0).all(-1)
    ratio = torch.where(empty, torch.zeros_like(denominator), relevance / denominator)
    return (contributions * ratio.unsqueeze(-1)).sum(-2)


def products(m: DenseMap, x: Tensor) -> Tensor:
    """c[k, j] = W[k, j] x[j]."""
    return m.weight * x.unsqueeze(-2)


def bias_of(m: DenseMap, bias: bool) -> Tensor:
    return m.bias if bias else torch.zeros_like(m.bias)


def epsilon_rule(m: DenseMap, x: Tensor, relevance: Tensor, *, epsilon: float = EPSILON, bias: bool = True) -> Tensor:
    """c[k, j] = W[k, j] x[j], absorbed b (Bach et al. 2015); epsilon = 0 is LRP-0."""
    return share(products(m, x), bias_of(m, bias), relevance, epsilon)


def zplus_rule(m: DenseMap, x: Tensor, relevance: Tensor, *, epsilon: float = EPSILON, bias: bool = True) -> Tensor:
    """c = (W[k, j] x[j])⁺, absorbed b⁺."""
    return share(positive(products(m, x)), positive(bias_of(m, bias)), relevance, epsilon)


def alpha_beta_rule(
    m: DenseMap,
    x: Tensor,
    relevance: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 1.0,
    epsilon: float = EPSILON,
    bias: bool = True,
) -> Tensor:
    """alpha times the share by (W x)⁺ (absorbed b⁺) minus beta times the share by (W x)⁻ (absorbed b⁻)."""
    c, b = products(m, x), bias_of(m, bias)
    for_it = share(positive(c), positive(b), relevance, epsilon)
    against_it = share(negative(c), negative(b), relevance, epsilon)
    return alpha * for_it - beta * against_it


def gamma_rule(
    m: DenseMap,
    x: Tensor,
    relevance: Tensor,
    *,
    gamma: float = 0.25,
    epsilon: float = EPSILON,
    bias: bool = True,
    bias_in_sign: bool = True,
) -> Tensor:
    """c = W x + gamma (W x)^sgn(z), absorbed b + gamma b^sgn(z); where z = 0 nothing flows.

    `bias=False` leaves the bias out of what is absorbed, and `bias_in_sign=False` then out of z as well.
    """
    c, b = products(m, x), bias_of(m, bias)
    z = c.sum(-1) + bias_of(m, bias or bias_in_sign)
    up = share(c + gamma * positive(c), b + gamma * positive(b), relevance * (z > 0), epsilon)
    down = share(c + gamma * negative(c), b + gamma * negative(b), relevance * (z < 0), epsilon)
    return up + down


def per_element(values: float | Sequence[float], shape: Sequence[int]) -> Tensor:
    """One float, or one for each channel (a sample's first dimension), as a flat tensor over the sample."""
    if isinstance(values, (int, float)):
        return torch.full((math.prod(shape),), float(values), dtype=torch.float64)
    channels = torch.tensor(values, dtype=torch.float64)
    return channels.repeat_interleave(math.prod(shape[1:]))


def zbox_rule(
    m: DenseMap,
    x: Tensor,
    relevance: Tensor,
    *,
    low: float | Sequence[float],
    high: float | Sequence[float],
    epsilon: float = EPSILON,
) -> Tensor:
    """c = W x - W⁺ low - W⁻ high, each positive when low <= x <= high; no bias."""
    low_j, high_j = per_element(low, m.input_shape), per_element(high, m.input_shape)
    c = products(m, x) - positive(m.weight) * low_j - negative(m.weight) * high_j
    return share(c, torch.zeros_like(m.bias), relevance, epsilon)


def wsquare_rule(m: DenseMap, x: Tensor, relevance: Tensor, *, epsilon: float = EPSILON, bias: bool = True) -> Tensor:
    """c = W², absorbed b²."""
    return share(m.weight.square().expand(len(x), -1, -1), bias_of(m, bias).square(), relevance, epsilon)


def flat_rule(m: DenseMap, x: Tensor, relevance: Tensor, *, epsilon: float = EPSILON) -> Tensor:
    """c = 1 wherever a weight connects, a weight of zero included; no bias."""
    return share(m.taps.expand(len(x), -1, -1), torch.zeros_like(m.bias), relevance, epsilon)


def through(rule: Callable[..., Tensor], m: DenseMap, x: Tensor, relevance: Tensor, **options: object) -> Tensor:
    """A rule on shaped tensors: flattens samples, applies it, gives the shape of `x` back."""
    batch = len(x)
    return rule(m, x.reshape(batch, -1), relevance.reshape(batch, -1), **options).reshape(x.shape)


# Pooling


def pool_windows(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output: Sequence[int],
) -> Tensor:
    """(outputs, inputs) of zeros and ones: the inputs that each window covers, without the padding."""
    windows = torch.ones(1, 1, dtype=torch.float64)
    for n, k, step, pad, spread, m in zip(size, kernel, stride, padding, dilation, output, strict=True):
        line = torch.zeros(m, n, dtype=torch.float64)
        for o in range(m):
            for tap in range(k):
                i = o * step - pad + tap * spread
                if 0 <= i < n:
                    line[o, i] = 1.0
        windows = torch.kron(windows, line)
    return windows


# Small models of one function, and data


class One(nn.Module):
    """A function of one input as a model; `function` may close over tensors, which then are constants."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Two(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.function(a, b)


class Three(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return self.function(a, b, c)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers that depend on nothing but the shape and the seed."""
    generator = torch.Generator().manual_seed(seed + 31 * len(shape) + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def randomize(module: M, seed: int = 0) -> M:
    """Weights and biases of unit scale, BatchNorm statistics far from (0, 1); in float64 and eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.double().state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
            if name.endswith("running_var"):
                tensor.abs_().add_(0.3)
    return module.eval()
