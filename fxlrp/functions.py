"""Pure functions that canonical graphs call and that torch does not provide."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxlrp.errors import InputError


def expect_dims(input: Tensor, dims: int, why: str) -> Tensor:
    """Return ``input``, which must have ``dims`` dimensions for the rest of the program to be valid.

    Raises:
        InputError: It has a different number of dimensions.
    """
    if input.dim() != dims:
        raise InputError(f"{why}, but got an input of shape {tuple(input.shape)}")
    return input


def set_item(input: Tensor, index: Any, value: Any) -> Tensor:
    """``input`` with ``input[index] = value``, without changing ``input``."""
    out = input.clone()
    out[index] = value
    return out


def attention_scale(query: Tensor) -> float:
    """``1 / sqrt(d)`` for queries of ``d`` features."""
    return 1 / math.sqrt(query.size(-1))


def causal_mask(query: Tensor, key: Tensor) -> Tensor:
    """True where a query, ``(..., L, d)``, may look at a key, ``(..., S, d)``: ``(L, S)``."""
    return torch.ones(query.size(-2), key.size(-2), dtype=torch.bool, device=query.device).tril()


def mask_scores(input: Tensor, mask: Tensor) -> Tensor:
    """Attention scores where a boolean ``mask`` is True, else minus infinity; for a numeric mask, their sum."""
    return input.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else input + mask


def attention_mask(mask: Tensor, heads: int) -> Tensor:
    """Convert the ``attn_mask`` of ``nn.MultiheadAttention`` to a mask that is True where a head may look."""
    if mask.dim() == 3:
        mask = mask.unflatten(0, (-1, heads))
    return ~mask if mask.dtype == torch.bool else mask


def padding_mask(mask: Tensor) -> Tensor:
    """Expand the ``key_padding_mask`` of ``nn.MultiheadAttention``, ``(batch, keys)``, to heads and queries."""
    mask = mask[:, None, None, :]
    return ~mask if mask.dtype == torch.bool else mask


def both_masks(first: Tensor, second: Tensor) -> Tensor:
    """Combine two masks into one that masks the positions of both."""
    if first.dtype == second.dtype == torch.bool:
        return first & second
    return sum_of_numbers(first, second)


def sum_of_numbers(first: Tensor, second: Tensor) -> Tensor:
    """The sum of two masks, where boolean masks count as zero and minus infinity."""
    numbers = [
        torch.zeros_like(mask, dtype=other.dtype).masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else mask
        for mask, other in ((first, second), (second, first))
    ]
    return numbers[0] + numbers[1]


def repeat_heads(input: Tensor, like: Tensor) -> Tensor:
    """Repeat each head of values or transposed keys, ``(..., heads, n, m)``, up to the number of heads of ``like``.

    The result is a view of ``input`` if the numbers are equal.
    """
    repeats = like.size(-3) // input.size(-3)
    repeated = input.unsqueeze(-3).expand(*input.shape[:-2], repeats, *input.shape[-2:])
    return repeated.flatten(-4, -3)


def initial_state(input: Tensor, count: int, features: int, batch_dim: int) -> Tensor:
    """The initial state of ``count`` recurrent layers: zeros, ``(count, batch, features)``."""
    return input.new_zeros(count, input.size(batch_dim), features)


def broadcast_among(input: Tensor, others: Sequence[Tensor]) -> Tensor:
    """``input``, expanded to the shape that it and the others broadcast to."""
    expanded: Tensor = torch.broadcast_tensors(input, *others)[0]
    return expanded


def rounded_quotient(input: Any, other: Any, rounding_mode: str) -> Tensor:
    """``torch.div`` with a rounding mode, which keeps integers."""
    return torch.div(input, other, rounding_mode=rounding_mode)


def grouped_mm_fallback(input: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    """The product of each group of rows with the matrix of its expert, by the operator of transformers."""
    product: Tensor = torch.ops.transformers.grouped_mm_fallback(input, weight, offs)
    return product


def local_response(input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """The denominator of local response normalization: a power of the mean square of neighboring channels."""
    padded = F.pad(input.square().flatten(2).unsqueeze(1), (0, 0, size // 2, (size - 1) // 2))
    means = F.avg_pool2d(padded, (size, 1), stride=1)
    return (k + alpha * means).pow(beta).reshape(input.shape)


def power(input: Tensor | float, exponent: Tensor) -> Tensor:
    """``input ** exponent`` of two values; a power by a number is another operation."""
    return torch.pow(input, exponent)


def scatter(
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Tensor | float | None = None,
    value: float | None = None,
    reduce: str | None = None,
) -> Tensor:
    """``torch.scatter`` of a tensor or a number; with the reduction "add", which torch does not differentiate."""
    number = value if src is None else src
    if isinstance(number, Tensor):
        source = number
    else:
        source = torch.full(index.shape, number or 0.0, dtype=input.dtype, device=input.device)
    return torch.scatter_add(input, dim, index, source) if reduce == "add" else torch.scatter(input, dim, index, source)


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """``torch.nn.functional.affine_grid``, whose transposed map in torch writes to views and cannot be traced."""
    lengths = list(reversed(size[2:]))
    axes = [torch.linspace(-1, 1, length, dtype=theta.dtype, device=theta.device) for length in lengths]
    if not align_corners:
        axes = [axis * ((length - 1) / length) for axis, length in zip(axes, lengths, strict=True)]
    places = torch.meshgrid(*reversed(axes), indexing="ij")
    base = torch.stack([*reversed(places), torch.ones_like(places[0])], -1)
    grid = base.reshape(1, -1, len(lengths) + 1) @ theta.transpose(1, 2)
    return grid.reshape(size[0], *size[2:], len(lengths))


def istft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Tensor:
    """``torch.istft`` without its check that the windows cover the signal, which needs the values of the window."""
    hop, width = hop_length or n_fft // 4, win_length or n_fft
    shape = window if window is not None else torch.ones(width, dtype=input.real.dtype, device=input.device)
    left = (n_fft - width) // 2
    shape = F.pad(shape, (left, n_fft - width - left))
    spectra, norm = input.transpose(-1, -2), "ortho" if normalized else None
    inverse = torch.fft.ifft if return_complex else torch.fft.irfft
    frames = inverse(spectra, n_fft, -1, norm) * shape
    signal = _overlapped(frames.reshape(-1, *frames.shape[-2:]), hop)
    envelope = _overlapped((shape**2).expand(1, frames.size(-2), n_fft), hop)
    start = n_fft // 2 if center else 0
    stop = start + length if length is not None else signal.size(-1) - start
    result = signal[:, start:stop] / envelope[:, start:stop]
    if length is not None:
        result = F.pad(result, (0, length - result.size(-1)))
    return result.reshape(*input.shape[:-2], -1)


def _overlapped(frames: Tensor, hop: int) -> Tensor:
    """The sum of frames, ``(batch, frames, length)``, that begin ``hop`` elements after each other."""
    count, length = frames.shape[-2:]
    sizes = {"output_size": (1, hop * (count - 1) + length), "kernel_size": (1, length), "stride": (1, hop)}
    return F.fold(frames.transpose(1, 2), **sizes).flatten(1)


def combination_places(input: Tensor, r: int, with_replacement: bool) -> Tensor:
    """The places of the elements that ``torch.combinations`` takes, in a tensor whose size depends on sizes alone."""
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    places = list(choose(range(input.size(0)), r))
    return torch.tensor(places, dtype=torch.long, device=input.device).reshape(len(places), r)


def covariance(
    input: Tensor, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Tensor:
    """``torch.cov`` without its checks of the values of the weights."""
    x = input.reshape(1, -1) if input.dim() < 2 else input
    weights = torch.ones_like(x[0].real if x.is_complex() else x[0])
    for given in (fweights, aweights):
        weights = weights if given is None else weights * given
    total = weights.sum()
    lost = correction if aweights is None else correction * (weights * aweights).sum() / total
    centered = x - (x * weights).sum(1, keepdim=True) / total
    return ((centered * weights) @ centered.mH / (total - lost).clamp_min(0)).squeeze()


def correlation(input: Tensor) -> Tensor:
    """``torch.corrcoef`` by :func:`covariance`."""
    covariances = covariance(input)
    if covariances.dim() == 0:
        return covariances / covariances
    deviations = covariances.diagonal().real.sqrt() if covariances.is_complex() else covariances.diagonal().sqrt()
    ratios = covariances / deviations[:, None] / deviations
    return (
        torch.complex(ratios.real.clamp(-1, 1), ratios.imag.clamp(-1, 1))
        if ratios.is_complex()
        else ratios.clamp(-1, 1)
    )


def matrix_norm(
    A: Tensor,
    ord: float | str = "fro",
    dim: tuple[int, int] = (-2, -1),
    keepdim: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``torch.linalg.matrix_norm``; the largest and the smallest singular value are from a decomposition with vectors.

    Its derivative looks for the value among those of such a decomposition, and other algorithms round differently.
    """
    if ord not in (2, -2):
        norm: Tensor = torch.linalg.matrix_norm(A, ord, dim, keepdim, dtype=dtype)
        return norm
    matrices = (A if dtype is None else A.to(dtype)).movedim(dim, (-2, -1))
    values = torch.linalg.svd(matrices, full_matrices=False)[1]
    chosen: Tensor = values.amax(-1) if ord == 2 else values.amin(-1)
    first, second = sorted(each % A.dim() for each in dim)
    return chosen.unsqueeze(first).unsqueeze(second) if keepdim else chosen


def condition_number(A: Tensor, p: float | str | None = None) -> Tensor:
    """``torch.linalg.cond``, which writes into the inverse, so that its derivative could not be traced."""
    if p in (None, 2, -2, "nuc"):
        of_singular_values: Tensor = torch.linalg.cond(A, p)
        return of_singular_values
    inverse, info = torch.linalg.inv_ex(A)
    inverse = inverse.masked_fill((info > 0)[..., None, None], math.inf)
    number: Tensor = torch.linalg.matrix_norm(A, p) * torch.linalg.matrix_norm(inverse, p)
    return number


def factor_count(
    input: Tensor, dim: int, index: Tensor, source: Tensor, include_self: bool, operands: Sequence[int]
) -> Tensor:
    """How many factors of each element of a product reduction are in the given operands, at least one.

    ``index`` is that of ``scatter_reduce``, or with one dimension that of ``index_reduce``.
    """
    none, each = torch.zeros_like(input), torch.ones_like(source)
    scattered = index.dim() == source.dim() and index.dim() != 1
    count = none.scatter_add(dim, index, each) if scattered else none.index_add(dim, index, each)
    own = torch.ones_like(count) if include_self else torch.where(count == 0, 1.0, 0.0).to(count.dtype)
    return sum(((own, count)[operand] for operand in operands), none).clamp_min(1)


def scatter_product(input: Tensor, dim: int, index: Tensor, source: Tensor, include_self: bool = True) -> Tensor:
    """``torch.scatter_reduce`` with the reduction "prod"."""
    return torch.scatter_reduce(input, dim, index, source, "prod", include_self=include_self)


def index_product(input: Tensor, dim: int, index: Tensor, source: Tensor, include_self: bool = True) -> Tensor:
    """``torch.index_reduce`` with the reduction "prod"."""
    return torch.index_reduce(input, dim, index, source, "prod", include_self=include_self)


def expected_log_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The cross entropy of log-probabilities of shape ``(batch, classes, ...)``, in which it is linear.

    The arguments are those of :func:`torch.nn.functional.cross_entropy`.
    """
    classes = input.size(1)
    weights = input.new_ones(classes) if weight is None else weight
    column = weights.reshape(1, classes, *(1,) * (input.dim() - 2))
    if target.is_floating_point():
        smooth = target * (1 - label_smoothing) + label_smoothing / classes
        losses = -(input * smooth * column).sum(1)
        total = losses.sum() / (losses.numel()) if reduction == "mean" else losses.sum()
        return losses if reduction == "none" else total
    kept = target != ignore_index
    index = target.masked_fill(~kept, 0)
    exact = -input.gather(1, index.unsqueeze(1)).squeeze(1) * weights[index]
    smooth = -(input * column).sum(1) / classes
    losses = ((1 - label_smoothing) * exact + label_smoothing * smooth).masked_fill(~kept, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() / (weights[index] * kept).sum() if reduction == "mean" else losses.sum()


def add_into(input: Tensor, other: Tensor) -> Tensor:
    """``input + other``, in the memory of ``input`` if it has the type of the sum."""
    return input.add_(other) if input.dtype == other.dtype else input + other


def multiply_into(input: Tensor, other: Tensor) -> Tensor:
    """``input * other``, in the memory of ``input`` if it has the type of the product."""
    return input.mul_(other) if input.dtype == other.dtype else input * other


def rrelu(input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> Tensor:
    """``rrelu``, in eval mode as the leaky ReLU that it is: the kernel of torch makes noise that it does not read."""
    if training:
        return F.rrelu(input, lower, upper, training)
    return F.leaky_relu(input, (lower + upper) / 2)


def at_positions(input: Tensor, positions: Tensor | None) -> Tensor:
    """Select positions of ``(batch, length, features)``: the same of all samples, or some of each."""
    if positions is None:
        return input
    if positions.shape[0] == 1:
        return input.index_select(1, positions[0])
    return input.gather(1, row_index(input, positions))


def row_index(x: Tensor, positions: Tensor) -> Tensor:
    """The index with which ``gather`` and ``scatter`` select whole rows of ``(batch, length, features)``."""
    return positions.unsqueeze(-1).expand(-1, -1, x.shape[-1])


def relu6_into(input: Tensor) -> Tensor:
    """``relu6(input)``, in the memory of ``input``."""
    return F.relu6(input, inplace=True)


def silu_into(input: Tensor) -> Tensor:
    """``silu(input)``, in the memory of ``input``."""
    return F.silu(input, inplace=True)


def hardswish_into(input: Tensor) -> Tensor:
    """``hardswish(input)``, in the memory of ``input``."""
    return F.hardswish(input, inplace=True)
