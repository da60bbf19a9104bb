"""The rules of first layers, which compute once what is the same for every sample and channel.

Flat does not depend on values. WSquare and the bounds of ZBox depend only on parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.relevance.linear import Bound, bound, fit
from fxlrp.relevance.linear_maps import Convolution, Geometry, forward, transposed
from fxlrp.relevance.numerics import as_type_of, stabilize


def flat_of_one_channel(
    x: Tensor, weight: Tensor, r: Tensor, geometry: Geometry = None, *, stabilizer: float
) -> Tensor:
    """``R_x = 1^T(R / s(f(1, 0; 1)))``: the same for all channels, the sum over each window; see Flat."""
    if geometry is None:
        summed = r.sum(-1, keepdim=True) if weight.dim() == 2 else r.unsqueeze(-1)
        r = summed / stabilize(r.new_full((), x.shape[-1]), stabilizer)
        return as_type_of(r.repeat_interleave(x.shape[-1], -1), x)
    groups, channel = geometry.groups, weight.dim() - 1
    one, image = weight.new_ones((groups, 1, *weight.shape[2:])), x.narrow(-channel, 0, groups)
    summed = r.unflatten(-channel, (groups, -1)).sum(-channel)
    windows = forward(torch.ones_like(image if x.dim() < weight.dim() else image[:1]), one, None, geometry)
    r = summed / stabilize(windows * (x.shape[-channel] // groups), stabilizer)
    r = transposed(r, one, image, geometry)
    return as_type_of(r.repeat_interleave(x.shape[-channel] // groups, -channel), x)


def wsquare_of_one_sample(
    x: Tensor, weight: Tensor, bias: Tensor | None, r: Tensor, geometry: Geometry = None, *, stabilizer: float
) -> Tensor:
    """``R_x = (W^2)^T(R / s(f(W^2, b^2; 1)))``; see WSquare."""
    square = weight**2
    ones = torch.ones_like(_one_sample(x, weight))
    z = forward(ones, square, None if bias is None else bias**2, geometry)
    return as_type_of(transposed(r / stabilize(z, stabilizer), square, x, geometry), x)


def zbox_of_one_sample(
    x: Tensor,
    weight: Tensor,
    r: Tensor,
    geometry: Geometry = None,
    *,
    low: Bound,
    high: Bound,
    stabilizer: float,
) -> Tensor:
    """``R_x = (x - high) * W^T r + (high - low) * W+^T r``, as ``W = W+ + W-``; see ZBox."""
    w_pos, w_neg = weight.clamp(min=0), weight.clamp(max=0)
    sample = _one_sample(x, weight)
    if any(isinstance(each, Tensor) and fit(each, sample) is None for each in (low, high)):
        # The bounds differ between the samples, or between the vectors that a dense layer reads.
        sample = x
    lowest, highest = bound(low, sample, weight), bound(high, sample, weight)
    bounds = forward(lowest, w_pos, None, geometry) + forward(highest, w_neg, None, geometry)
    r = r / stabilize(forward(x, weight, None, geometry) - bounds, stabilizer)
    if isinstance(geometry, Convolution) and geometry.groups == 1 and x.dim() == weight.dim():
        # Compute both maps in one convolution.
        both = x.new_empty(()).expand(x.shape[0], 2 * x.shape[1], *x.shape[2:])
        of_all, of_positive = transposed(r, torch.cat((weight, w_pos), 1), both, geometry).chunk(2, 1)
    else:
        of_all, of_positive = transposed(r, weight, x, geometry), transposed(r, w_pos, x, geometry)
    return torch.addcmul((x - highest) * of_all, highest - lowest, of_positive)


def _one_sample(x: Tensor, weight: Tensor) -> Tensor:
    """A tensor in the shape of one sample, with a batch dimension if ``x`` has one; for a dense layer a vector."""
    if weight.dim() <= 2:
        return x.new_empty(x.shape[-1:])
    return x[:1] if x.dim() == weight.dim() else x
