"""The parameters with which linear transforms and products of several operands are tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from places import ALONG, BOOLS, CUBE, Arguments, M, Place, V, each, fixed, of, only, two

ROWS = torch.tensor([0, 2, 2, 1])
COMPLEX = V(4, 6, domain="complex")
GRID = fixed(2, 3, 3, 2, scale=0.6)
VOLUME_GRID = fixed(2, 2, 3, 3, 3, scale=0.6)


def _changed_in_places() -> Iterator[tuple[str, list[Arguments]]]:
    source = V(4, 6)
    yield (
        "index_add",
        [
            dict(input=V(3, 6), dim=0, index=ROWS, source=source),
            dict(input=V(4, 3), dim=1, index=torch.tensor([0, 2]), source=V(4, 2), alpha=-0.5),
            dict(input=fixed(3, 6), dim=0, index=ROWS, source=source, alpha=2),
        ],
    )
    index = torch.tensor([[0, 1, 2, 0, 1, 2], [2, 2, 1, 0, 0, 1]])
    added = [
        dict(input=V(3, 6), dim=0, index=index, src=V(2, 6)),
        dict(input=fixed(4, 6), dim=1, index=ALONG, src=V(2, 6)),
    ]
    yield "scatter_add", added
    yield (
        "index_copy",
        [
            dict(input=M, dim=0, index=torch.tensor([2, 0]), source=V(2, 6)),
            dict(input=M, dim=1, index=torch.tensor([5]), source=fixed(4, 1)),
        ],
    )
    yield (
        "index_fill",
        [dict(input=M, dim=dim, index=torch.tensor([2, 0]), value=value) for dim, value in ((0, 0.0), (1, -1.5))],
    )
    chosen = (torch.tensor([0, 3, 3]), torch.tensor([1, 2, 2]))
    yield (
        "index_put",
        [
            dict(input=M, indices=chosen, values=V(3), accumulate=True),
            dict(input=M, indices=(torch.tensor([1, 2]),), values=V(2, 6)),
            dict(input=M, indices=(torch.tensor([1, 2]),), values=V(6)),
        ],
    )
    yield (
        "put",
        [
            dict(input=M, index=torch.tensor([0, 23, 7]), source=V(3)),
            dict(input=M, index=torch.tensor([0, 7, 7]), source=V(3), accumulate=True),
        ],
    )
    yield "masked_scatter", [dict(input=M, mask=BOOLS, source=V(count)) for count in (8, 12)]
    yield (
        "select_scatter",
        [dict(input=M, src=V(6), dim=0, index=1), dict(input=M, src=fixed(4), dim=1, index=-1)],
    )
    yield (
        "slice_scatter",
        [
            dict(input=M, src=V(2, 6), dim=0, start=1, end=3),
            dict(input=M, src=V(4, 3), dim=1, step=2),
            dict(input=M, src=M),
        ],
    )
    yield (
        "diagonal_scatter",
        [dict(input=M, src=V(4)), dict(input=CUBE, src=V(4, 1), offset=1, dim1=1, dim2=0), dict(input=M, src=fixed(4))],
    )
    yield (
        "as_strided_scatter",
        [
            dict(input=M, src=V(2, 3), size=(2, 3), stride=(6, 1)),
            dict(input=M, src=V(2, 2), size=(2, 2), stride=(6, 2), storage_offset=1),
        ],
    )
    for name, own in (("scatter_reduce", "src"), ("index_reduce", "source")):
        ways = ["sum", "mean", "amax", "amin"] if own == "src" else ["mean", "amax", "amin"]
        at = index if own == "src" else torch.tensor([1, 1])
        yield (
            name,
            [
                *(
                    {"input": V(3, 6), "dim": 0, "index": at, own: V(2, 6), "reduce": way, "include_self": included}
                    for way in ways
                    for included in (True, False)
                ),
            ],
        )
    yield (
        "scatter",
        [
            dict(input=V(3, 6), dim=0, index=index[:1], src=V(1, 6)),
            dict(input=V(3, 6), dim=0, index=index, src=V(2, 6), reduce="add"),
            dict(input=V(3, 6), dim=0, index=index, value=-1.5),
            dict(input=V(3, 6), dim=0, index=index, src=-1.5, reduce="add"),
        ],
    )
    lengths = torch.tensor([1, 0, 3])
    yield (
        "segment_reduce",
        [
            *(dict(data=V(4, 3), reduce=way, lengths=torch.tensor([1, 3])) for way in ("sum", "mean", "max", "min")),
            *(dict(data=V(4, 3), reduce="sum", lengths=lengths, initial=number) for number in (0.0, 0.5)),
        ],
    )


def _differences_and_sums() -> Iterator[tuple[str, list[Arguments]]]:
    yield (
        "diff",
        [*of(M, dict(n=2), dict(dim=0)), dict(input=M, prepend=V(4, 1)), dict(input=M, append=V(4, 2), prepend=M)],
    )
    points = torch.tensor([0.0, 1.0, 1.5, 3.0, 3.5, 5.0], dtype=torch.float64)
    spaced: list[Arguments] = [{}, dict(dx=0.5), dict(x=points), dict(dim=0)]
    for name in ("trapezoid", "trapz", "cumulative_trapezoid"):
        yield name, [dict(y=M, **one) for one in spaced]
    ways = ("linear", "lower", "higher", "midpoint", "nearest")
    halves = torch.tensor([0.25, 0.9], dtype=torch.float64)
    for name in ("quantile", "nanquantile"):
        yield (
            name,
            [
                *only(M, *(dict(q=0.3, dim=1, interpolation=way) for way in ways)),
                *only(M, dict(q=0.5), dict(q=halves, dim=0, keepdim=True)),
                *only(V(4, 6, special=(float("nan"),)), dict(q=0.4, dim=1)) * (name == "nanquantile"),
            ],
        )
    reductions: list[Arguments] = [dict(dim=1), dict(dim=(0, 1), keepdim=True), dict(dim=0, dtype=torch.float64)]
    for name in ("nansum", "nanmean"):
        yield name, [*of(M, *reductions), *of(V(4, 6, special=(float("nan"),)), dict(dim=1))]
    yield "trace", of(M, {"input": V(3, 3)})
    yield "sum_to_size", only(M, *each("size", (4, 1), (1, 6), (6,), (4, 6)))
    yield "gradient", of(M, dict(dim=1), dict(spacing=0.5), dict(dim=0, edge_order=2))
    for name in ("deg2rad", "rad2deg"):
        yield name, of(M, {"input": CUBE})


def _sampled() -> Iterator[tuple[str, list[Arguments]]]:
    yield (
        "affine_grid",
        [
            dict(theta=V(2, 2, 3), size=(2, 3, 3, 4)),
            dict(theta=V(2, 2, 3), size=(2, 1, 3, 2), align_corners=True),
            dict(theta=V(2, 3, 4), size=(2, 1, 2, 3, 2), align_corners=False),
        ],
    )
    image, volume = V(2, 3, 4, 5), V(2, 2, 3, 4, 3)
    yield (
        "grid_sample",
        [
            *only(
                image,
                dict(grid=GRID),
                dict(grid=GRID * 2, padding_mode="border", align_corners=True),
                dict(grid=GRID * 2, padding_mode="reflection", align_corners=False),
                dict(grid=GRID, mode="nearest"),
                dict(grid=GRID, mode="bicubic"),
            ),
            dict(input=volume, grid=VOLUME_GRID),
        ],
    )
    modes = [(0, 0, False), (1, 1, True), (0, 2, True)]
    for name, place, grid in (
        ("grid_sampler", image, GRID),
        ("grid_sampler_2d", image, GRID),
        ("grid_sampler_3d", volume, VOLUME_GRID),
    ):
        yield (
            name,
            [
                dict(input=place, grid=grid, interpolation_mode=mode, padding_mode=padding, align_corners=align)
                for mode, padding, align in modes
            ],
        )
    for n in (1, 2, 3):
        shape = (2, 2, *(2,) * n)
        steps = torch.arange(2)
        # The places of the largest elements of windows of two: one in each window.
        index = steps * 2 + 1 if n == 1 else (steps[:, None] * 2 + 1) * 4 + steps * 2
        index = index if n < 3 else (steps[:, None, None] * 2) * 16 + (steps[:, None] * 2 + 1) * 4 + steps * 2
        index = index.expand(shape).contiguous()
        yield (
            f"max_unpool{n}d",
            only(
                V(*shape),
                dict(indices=index, kernel_size=2),
                dict(indices=index, kernel_size=(2,) * n, stride=(2,) * n, output_size=(2, 2, *(4,) * n)),
            ),
        )
        to: Arguments = dict(indices=index, size=(4,) * n)
        if n > 1:
            yield f"max_unpool{n}d_to", only(V(*shape), to if n == 2 else dict(**to, stride=(2,) * 3, padding=(0,) * 3))
    lower = torch.eye(3, dtype=torch.float64) * 1.5 + fixed(3, 3).tril(-1)
    yield (
        "cholesky_solve",
        only(V(3, 2), dict(L=lower), dict(L=lower.mT.contiguous(), upper=True)),
    )


def _losses() -> Iterator[tuple[str, list[Arguments]]]:
    target = torch.tensor([0, 3, 5, 1])
    weight = fixed(6).abs() + 0.5
    options: list[Arguments] = [
        dict(target=target),
        dict(target=target, reduction="sum", weight=weight),
        dict(target=target, reduction="none", ignore_index=3),
    ]
    smooth: list[Arguments] = [
        dict(target=target, label_smoothing=0.2, weight=weight),
        dict(target=fixed(4, 6).abs(), reduction="sum", label_smoothing=0.1),
        dict(target=fixed(4, 6).abs(), reduction="none"),
    ]
    yield "nll_loss", only(M, *options)
    yield "expected_log_loss", only(M, *options, *smooth)


def _of_complex_numbers() -> Iterator[tuple[str, list[Arguments]]]:
    for name in ("conj", "resolve_conj", "resolve_neg"):
        yield name, [*of(COMPLEX), *of(M)]
    yield from _fourier()
    window = torch.hann_window(4, dtype=torch.float64)
    signal = V(2, 12)
    yield (
        "stft",
        only(
            signal,
            dict(n_fft=4, hop_length=2, window=window, return_complex=True),
            dict(n_fft=4, window=window, return_complex=True, center=False, normalized=True, onesided=False),
        ),
    )
    yield "istft", _inverse_windows(window)


def _inverse_windows(window: Tensor) -> list[Arguments]:
    whole: list[Arguments] = [
        dict(n_fft=4, hop_length=2, window=window),
        dict(n_fft=4, hop_length=2, window=window, length=7, normalized=True),
        dict(n_fft=4, hop_length=1, win_length=3, window=window[:3] + 0.5, length=5),
        dict(n_fft=4, hop_length=2, window=window + 0.5, center=False),
        dict(n_fft=4, hop_length=2, window=window + 0.5, length=14),
    ]
    of_both_sides = [dict(n_fft=4, hop_length=2), dict(n_fft=4, return_complex=True, onesided=False)]
    return [*only(V(2, 3, 5, domain="complex"), *whole), *only(V(4, 5, domain="complex"), *of_both_sides)]


def _fourier() -> Iterator[tuple[str, list[Arguments]]]:
    one: list[Arguments] = [dict(n=4), dict(dim=0, norm="ortho"), dict(norm="forward", n=8)]
    more: list[Arguments] = [dict(s=(4, 4)), dict(norm="ortho")]
    of_real = ("rfft", "ihfft")
    for kind in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"):
        places: list[Place] = [M] if kind in of_real else [COMPLEX]
        places += [M] if kind not in (*of_real, "irfft", "hfft") else []
        cube = V(2, 3, 4) if kind in of_real else V(2, 3, 4, domain="complex")
        yield f"fft_{kind}", [setting for place in places for setting in of(place, *one)]
        yield f"fft_{kind}2", [*(setting for place in places for setting in of(place, *more)), *of(cube)]
        yield f"fft_{kind}n", [*of(cube, dict(dim=(0, 2))), *of(places[0], *more)]


def _products() -> Iterator[tuple[str, list[Arguments]]]:
    yield (
        "tensordot",
        [
            dict(a=CUBE, b=V(3, 4, 2)),
            dict(a=M, b=V(6, 3), dims=1),
            dict(a=M, b=fixed(4, 6), dims=([0, 1], [0, 1])),
            dict(a=V(2, 3), b=V(2, 2), dims=0),
        ],
    )
    yield "inner", [two(V(3), V(3)), two(M, V(2, 6)), two(M, fixed(6))]
    block = V(2, 3, contiguous=True)
    yield "kron", [two(block, V(3, 2)), two(V(2), V(3)), two(block, fixed(2, 2))]
    vectors: list[tuple[Any, Any]] = [(V(4, 3), V(4, 3)), (V(4, 3), fixed(4, 3)), (V(1, 3), V(4, 3))]
    yield "cross", [*(two(*pair, dim=1) for pair in vectors[:2]), two(V(3, 4), V(3, 4), dim=0)]
    yield "linalg_cross", [*(two(*pair) for pair in vectors), two(V(3, 4), V(3, 4), dim=0)]
    matrices: list[list[Any]] = [[V(2, 3), V(3, 4), V(4, 2)], [M, fixed(6, 3)], [M, V(6, 3)]]
    yield "linalg_multi_dot", [dict(tensors=tensors) for tensors in matrices]
    yield "chain_matmul", [dict(tensors=tensors) for tensors in (*matrices, [M])]


TRANSFORMS: dict[str, list[Arguments]] = {
    name: given
    for group in (_changed_in_places, _differences_and_sums, _sampled, _losses, _of_complex_numbers, _products)
    for name, given in group()
}
