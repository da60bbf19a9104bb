"""Operations whose results are elements of the operands, or weighted averages of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from fxlrp import functions
from fxlrp.operation import Family, Operation
from fxlrp.vocabulary.schema import row, rows

_SINGLE = """
    amin(input*, dim=(), keepdim=False)
    fmax(input*, other*)
    fmin(input*, other*)
    msort(input*)
    take(input*, index)
    rot90(input*, k=1, dims=(0, 1))
    fliplr(input*)
    flipud(input*)
    diag(input*, diagonal=0)
    diag_embed(input*, offset=0, dim1=-2, dim2=-1)
    diagflat(input*, offset=0)
    column_stack(tensors*)
    complex(real*, imag*)
    fft.fftshift(input*, dim=None)
    fft.ifftshift(input*, dim=None)
"""

# Weighted averages, in which larger elements weigh more.
_SOFT = """
    logsumexp(input*, dim, keepdim=False)
    logcumsumexp(input*, dim)
    logaddexp(input*, other*)
    logaddexp2(input*, other*)
"""

# Results of these may share memory with the operand.
_VIEWS = """
    linalg.diagonal(A*, offset=0, dim1=-2, dim2=-1)
    view_as_complex(input*)
    view_as_real(input*)
    resolve_conj(input*)
    resolve_neg(input*)
    real(input*)
    imag(input*)
    cfloat(input*)
    cdouble(input*)
    chalf(input*)
"""

_SEVERAL = """
    cummax(input*, dim)
    cummin(input*, dim)
    kthvalue(input*, k, dim=-1, keepdim=False)
    mode(input*, dim=-1, keepdim=False)
    aminmax(input*, dim=None, keepdim=False)
"""

_PARTS = """
    tensor_split(input*, indices_or_sections, dim=0)
    unsafe_chunk(input*, chunks, dim=0)
    unsafe_split(input*, split_size, dim=0)
    hsplit(input*, indices_or_sections)
    vsplit(input*, indices_or_sections)
    dsplit(input*, indices_or_sections)
"""


def selections() -> Iterator[Operation]:
    """The selections, hard and soft."""
    hard: dict[str, Any] = {"homogeneous": True}
    several: dict[str, Any] = {"multiple_results": True, **hard}
    yield from rows(Family.SELECTION, _SINGLE, allocates=True, **hard)
    yield from rows(Family.SELECTION, _SOFT, allocates=True)
    yield from rows(Family.SELECTION, _SEVERAL, allocates=True, **several)
    yield from rows(Family.SELECTION, _VIEWS, **hard)
    strided = "as_strided(input*, size, stride, storage_offset=None)"
    yield row(Family.SELECTION, strided, overlaps=True, **hard)
    yield from rows(Family.SELECTION, _PARTS, **several)
    for name in ("median", "nanmedian"):
        function = getattr(torch.ops.aten, name).dim
        yield row(Family.SELECTION, f"{name}_of(input*, dim, keepdim=False)", function, allocates=True, **several)
    # The last parameter is always True, and of no effect.
    pooled = "kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False"
    for n in (1, 2, 3):
        name = f"max_pool{n}d_with_indices"
        yield row(Family.SELECTION, f"{name}(input*, {pooled})", getattr(F, name), allocates=True, **several)
    several["variadic"] = "tensors"
    others: dict[str, Any] = {"without_relevance": ("others",), "reads_form": ("others",), **hard}
    yield row(Family.SELECTION, "broadcast_among(input*, others)", functions.broadcast_among, overlaps=True, **others)
    yield row(Family.SELECTION, "meshgrid(tensors*, indexing=None)", overlaps=True, **several)
    joined: dict[str, Any] = {"variadic": "tensors", "allocates": True, **hard}
    yield row(Family.SELECTION, "block_diag(tensors*)", torch.ops.aten.block_diag.default, **joined)
    yield row(Family.SHAPE, "masked_select(input*, mask)", allocates=True)
