"""Linear operations without weights whose transposed map is derived, and products of several operands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from fxlrp import functions
from fxlrp.operation import Family, OneOf, Operation
from fxlrp.vocabulary import facts
from fxlrp.vocabulary.schema import row, rows

_LINEAR = """
    index_add(input*, dim, index, source*, alpha=1)
    scatter_add(input*, dim, index, src*)
    index_copy(input*, dim, index, source*)
    put(input*, index, source*, accumulate=False)
    masked_scatter(input*, mask, source*)
    diagonal_scatter(input*, src*, offset=0, dim1=0, dim2=1)
    as_strided_scatter(input*, src*, size, stride, storage_offset=None)
    diff(input*, n=1, dim=-1, prepend*=None, append*=None)
    trapezoid(y*, x=None, dx=1, dim=-1)
    trapz(y*, x=None, dx=1, dim=-1)
    cumulative_trapezoid(y*, x=None, dx=1, dim=-1)
    quantile(input*, q, dim=None, keepdim=False, interpolation="linear")
    nanquantile(input*, q, dim=None, keepdim=False, interpolation="linear")
    nansum(input*, dim=None, keepdim=False, dtype=None)
    nanmean(input*, dim=None, keepdim=False, dtype=None)
    trace(input*)
    max_unpool1d(input*, indices, kernel_size, stride=None, padding=0, output_size=None)
    max_unpool2d(input*, indices, kernel_size, stride=None, padding=0, output_size=None)
    max_unpool3d(input*, indices, kernel_size, stride=None, padding=0, output_size=None)
    cholesky_solve(input*, L, upper=False)
    deg2rad(input*)
    rad2deg(input*)
"""

# Their results may share memory with the operand.
_VIEWS = """
    sum_to_size(input*, size)
"""

_FOURIER = """
    fft.fft(input*, n=None, dim=-1, norm=None)
    fft.ifft(input*, n=None, dim=-1, norm=None)
    fft.rfft(input*, n=None, dim=-1, norm=None)
    fft.irfft(input*, n=None, dim=-1, norm=None)
    fft.hfft(input*, n=None, dim=-1, norm=None)
    fft.ihfft(input*, n=None, dim=-1, norm=None)
    fft.fft2(input*, s=None, dim=(-2, -1), norm=None)
    fft.ifft2(input*, s=None, dim=(-2, -1), norm=None)
    fft.rfft2(input*, s=None, dim=(-2, -1), norm=None)
    fft.irfft2(input*, s=None, dim=(-2, -1), norm=None)
    fft.hfft2(input*, s=None, dim=(-2, -1), norm=None)
    fft.ihfft2(input*, s=None, dim=(-2, -1), norm=None)
    fft.fftn(input*, s=None, dim=None, norm=None)
    fft.ifftn(input*, s=None, dim=None, norm=None)
    fft.rfftn(input*, s=None, dim=None, norm=None)
    fft.irfftn(input*, s=None, dim=None, norm=None)
    fft.hfftn(input*, s=None, dim=None, norm=None)
    fft.ihfftn(input*, s=None, dim=None, norm=None)
"""

_STFT = "input*, n_fft, hop_length=None, win_length=None, window=None, center=True"

_SAMPLED = """
    grid_sample(input*, grid, mode="bilinear", padding_mode="zeros", align_corners=None)
    grid_sampler(input*, grid, interpolation_mode, padding_mode, align_corners)
    grid_sampler_2d(input*, grid, interpolation_mode, padding_mode, align_corners)
    grid_sampler_3d(input*, grid, interpolation_mode, padding_mode, align_corners)
"""

# Reductions by product are rewritten to other operations.
_REDUCED = """
    scatter_reduce(input*, dim, index, src*, reduce, include_self=True)
    index_reduce(input*, dim, index, source*, reduce, include_self=True)
"""

_PRODUCTS = """
    tensordot(a*, b*, dims=2, out=None)
    inner(input*, other*)
    kron(input*, other*)
    cross(input*, other*, dim=None)
    linalg.cross(input*, other*, dim=-1)
    linalg.multi_dot(tensors*)
"""


def transforms() -> Iterator[Operation]:
    """The linear operations."""
    known: dict[str, Any] = {"allocates": True}
    yield from rows(Family.TRANSFORM, _LINEAR, **known)
    filled: dict[str, Any] = {**known, "shifts": facts.arguments_named("value")}
    yield row(Family.TRANSFORM, "index_fill(input*, dim, index, value)", **filled)
    yield from rows(Family.TRANSFORM, _FOURIER, **known)
    yield from rows(Family.TRANSFORM, _VIEWS)
    # Not the view that torch.conj returns: some operations do not take it.
    yield row(Family.TRANSFORM, "conj(input*)", torch.conj_physical, aliases=("_conj", "conj_physical"))
    rest = "pad_mode='reflect', normalized=False, onesided=None, return_complex=None, align_to_window=None"
    yield row(Family.TRANSFORM, f"stft({_STFT}, {rest})", **known)
    rest = "normalized=False, onesided=None, length=None, return_complex=False"
    yield row(Family.TRANSFORM, f"istft({_STFT}, {rest})", functions.istft, **known)
    # The places at which an image is sampled count as constants, as the weights of an average do.
    yield from rows(Family.TRANSFORM, _SAMPLED, held_constant=("grid",), **known)
    grid = "affine_grid(theta*, size, align_corners=None)"
    yield row(Family.TRANSFORM, grid, functions.affine_grid, aliases=("affine_grid_generator",), **known)
    yield from rows(Family.TRANSFORM, _REDUCED, **known)
    yield row(
        Family.TRANSFORM,
        "segment_reduce(data*, reduce, lengths=None, indices=None, offsets=None, axis=0, unsafe=False, initial=None)",
        torch.segment_reduce,
        required_values={"reduce": OneOf(("sum", "mean", "max", "min"))},
        shifts=facts.arguments_named("initial"),
        **known,
    )
    yield row(Family.TRANSFORM, "max_unpool2d_to(input*, indices, size)", torch.ops.aten.max_unpool2d.default, **known)
    to = "max_unpool3d_to(input*, indices, size, stride, padding)"
    yield row(Family.TRANSFORM, to, torch.ops.aten.max_unpool3d.default, **known)
    yield row(
        Family.TRANSFORM,
        "grouped_mm(input*, weight, offs=None, bias=None, out_dtype=None)",
        aliases=("_grouped_mm",),
        **known,
    )
    yield row(
        Family.TRANSFORM,
        "grouped_mm_fallback(input*, weight, offs)",
        functions.grouped_mm_fallback,
        allocates=True,
        qualified_names=("torch._ops.transformers.transformers::grouped_mm_fallback",),
    )
    put = "index_put(input*, indices, values*, accumulate=False)"
    yield row(Family.TRANSFORM, put, torch.ops.aten.index_put.default, **known)
    yield row(
        Family.TRANSFORM,
        "scatter(input*, dim, index, src*=None, value=None, reduce=None)",
        functions.scatter,
        required_values={"reduce": OneOf((None, "add"))},
        **filled,
    )
    gradient = "gradient(input*, spacing=None, dim=None, edge_order=1)"
    yield row(Family.TRANSFORM, gradient, multiple_results=True, **known)
    yield from rows(Family.MATMUL, _PRODUCTS, **known)
    product = torch.ops.aten.chain_matmul.default
    yield row(Family.MATMUL, "chain_matmul(tensors*)", product, variadic="tensors", **known)
