"""The parameters with which selections are tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from places import BOOLS, CUBE, Arguments, M, V, each, fixed, of, only, two

COMPLEX = V(4, 6, domain="complex")


def _of_one() -> Iterator[tuple[str, list[Arguments]]]:
    reductions = [*each("dim", 1, 0, (0, 1)), dict(dim=1, keepdim=True)]
    yield "amin", of(M, *reductions)
    yield "logsumexp", only(M, *reductions)
    yield "logcumsumexp", only(M, *each("dim", 0, 1))
    yield "msort", of(M, {"input": V(5)})
    yield "take", only(M, *each("index", torch.tensor([0, 23, 7, 7]), torch.tensor([[1], [2]])))
    yield "rot90", of(M, dict(k=2), dict(k=-1), dict(dims=(1, 0)), dict(k=4))
    yield "fliplr", of(M, {"input": CUBE})
    yield "flipud", of(M, {"input": CUBE})
    yield "diag", [*of(M, dict(diagonal=1)), *of(V(3), dict(diagonal=-1))]
    yield "diag_embed", of(M, dict(offset=1), dict(offset=-1, dim1=0, dim2=2))
    yield "diagflat", of(V(3), dict(offset=1), {"input": V(2, 2)})
    yield "linalg_diagonal", [{"A": M}, dict(A=M, offset=-1), dict(A=CUBE, offset=1, dim1=0, dim2=2)]
    yield "as_strided", only(M, dict(size=(2, 3), stride=(6, 1)), dict(size=(3, 2), stride=(2, 2), storage_offset=1))
    for name in ("fft_fftshift", "fft_ifftshift"):
        yield name, of(M, *each("dim", 1, (0, 1)))
    yield "masked_select", only(M, *each("mask", BOOLS, BOOLS[0], ~BOOLS))


def _of_complex_numbers() -> Iterator[tuple[str, list[Arguments]]]:
    yield "view_as_complex", [{"input": V(*shape, contiguous=True)} for shape in ((4, 3, 2), (2, 2))]
    yield "view_as_real", [{"input": COMPLEX}, {"input": V(3, domain="complex")}]
    yield "complex", [dict(real=M, imag=M), dict(real=M, imag=fixed(4, 6)), dict(real=M, imag=V(6))]
    for name in ("real", "imag"):
        yield name, [{"input": COMPLEX}, {"input": V(3, domain="complex")}]
    for name in ("cfloat", "cdouble", "chalf"):
        yield name, [{"input": M}, {"input": COMPLEX}]


def _of_two() -> Iterator[tuple[str, list[Arguments]]]:
    for name in ("logaddexp", "logaddexp2", "fmax", "fmin"):
        yield name, [two(M, M), two(M, V(6)), two(M, fixed(6)), two(V(4, 1), V(1, 6))]
    joined: list[list[Any]] = [[M], [M, M], [M, fixed(4, 6), V(4)]]
    yield "column_stack", [dict(tensors=tensors) for tensors in joined]
    yield "broadcast_among", only(V(4, 1), *each("others", [fixed(1, 6)], [fixed(4, 6), fixed(6)]))
    yield "broadcast_tensors", [dict(tensors=tensors) for tensors in ([M, V(6)], [V(4, 1), V(1, 6)], [M, fixed(6)])]
    yield "meshgrid", [dict(tensors=[V(3), V(4)], indexing=indexing) for indexing in ("ij", "xy")]
    yield "block_diag", [dict(tensors=tensors) for tensors in ([M], [M, V(2, 3)], [M, fixed(2, 2), V(3)])]


def _of_several_results() -> Iterator[tuple[str, list[Arguments]]]:
    for name in ("cummax", "cummin"):
        yield name, only(M, *each("dim", 0, 1))
    yield "kthvalue", only(M, dict(k=2), dict(k=1, dim=0), dict(k=4, dim=0, keepdim=True))
    yield "mode", of(M, dict(dim=0), dict(keepdim=True))
    yield "aminmax", of(M, dict(dim=1), dict(dim=0, keepdim=True))
    sections: list[Any] = [2, 3, [1, 3], (4,)]
    yield (
        "tensor_split",
        [*only(M, *each("indices_or_sections", *sections)), *only(M, dict(indices_or_sections=3, dim=1))],
    )
    yield "unsafe_chunk", only(M, dict(chunks=2), dict(chunks=3, dim=1))
    yield "unsafe_split", only(M, dict(split_size=2), dict(split_size=4, dim=1))
    yield "hsplit", only(M, *each("indices_or_sections", 2, [1, 3]))
    yield "vsplit", only(M, *each("indices_or_sections", 2, [1, 3]))
    yield "dsplit", only(CUBE, *each("indices_or_sections", 2, [1, 3]))
    for name in ("median_of", "nanmedian_of"):
        places = [M, V(4, 6, special=(float("nan"),))] if name.startswith("nan") else [M]
        yield name, [setting for place in places for setting in only(place, dict(dim=1), dict(dim=0, keepdim=True))]
    for n in (1, 2, 3):
        windows = [dict(kernel_size=2), dict(kernel_size=3, stride=1, padding=1), dict(kernel_size=2, ceil_mode=True)]
        yield f"max_pool{n}d_with_indices", only(V(2, 2, *(5,) * n), *windows)


SELECTIONS: dict[str, list[Arguments]] = {
    name: given for group in (_of_one, _of_complex_numbers, _of_two, _of_several_results) for name, given in group()
}
