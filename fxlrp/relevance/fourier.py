"""Transposed maps of Fourier transforms, which are Fourier transforms themselves.

Complex numbers count as pairs of real numbers, so the transposed map of a complex matrix is its conjugate transpose.
The maps are written here because a trace of PyTorch's own backward is valid only for the sizes of the examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxlrp.relevance.step import Step

# The transposed map has the scale of the other direction.
_TRANSPOSED_NORM = {None: "forward", "backward": "forward", "forward": "backward", "ortho": "ortho"}
_KINDS = ("fft", "ifft", "rfft", "irfft")
TRANSFORMS = frozenset(f"fft_{kind}{dims}" for kind in _KINDS for dims in ("", "2", "n"))


def fourier_transposed(
    u: Tensor, x: Tensor, kind: str, sizes: Sequence[int] | None, dims: Sequence[int] | None, norm: str | None
) -> Tensor:
    """``J^T u`` of a Fourier transform over dimensions.

    Args:
        u: A tensor like the result.
        x: The operand.
        kind: The one-dimensional transform: "fft", "ifft", "rfft" or "irfft".
        sizes: The sizes of the signal, to which the operand is padded or cut; None for its own.
        dims: The dimensions; None for the last ones, one for each of ``sizes``, or for all.
        norm: The norm of the transform.
    """
    if dims is None:
        dims = range(-len(sizes), 0) if sizes is not None else range(-x.dim(), 0)
    given = [*zip(dims, sizes if sizes is not None else (None,) * len(dims), strict=True)]
    back = _TRANSPOSED_NORM[norm]
    one_sided = given.pop() if kind in ("rfft", "irfft") else None
    if one_sided is not None and kind == "irfft":
        u = _doubled(torch.fft.rfft(u, dim=one_sided[0], norm=back), one_sided[0], u.size(one_sided[0]))
        u = _to_size(u, one_sided[0], x.size(one_sided[0]))
    for dim, size in given:
        transposed = torch.fft.fft if kind in ("ifft", "irfft") else torch.fft.ifft
        u = transposed(u, dim=dim, norm=back)
        u = u if size is None else _to_size(u, dim, x.size(dim))
    if one_sided is not None and kind == "rfft":
        dim, size = one_sided
        length = x.size(dim)
        u = torch.fft.ifft(_to_size(u, dim, length if size is None else size), dim=dim, norm=back)
        u = u if size is None else _to_size(u, dim, length)
    return u if x.is_complex() or not u.is_complex() else u.real


def _doubled(u: Tensor, dim: int, length: int) -> Tensor:
    """Double the frequencies that stand for two: all but zero, and half the length if that is even."""
    frequency = torch.arange(u.size(dim), device=u.device)
    weights = torch.where((frequency == 0) | (2 * frequency == length), 1.0, 2.0).to(u.real.dtype)
    return (u.movedim(dim, -1) * weights).movedim(-1, dim)


def _to_size(u: Tensor, dim: int, size: int) -> Tensor:
    """Pad with zeros, or cut, at the end of a dimension."""
    moved = u.movedim(dim, -1)
    return F.pad(moved, (0, size - moved.size(-1))).movedim(-1, dim)


def emit_transposed(step: Step, u: fx.Node) -> fx.Node:
    """Emit ``J^T u`` of a Fourier transform."""
    arguments = step.arguments
    kind = step.operation.name.removeprefix("fft_").rstrip("2n")
    sizes = _listed(arguments.get("s", arguments.get("n")))
    return step.call(fourier_transposed, u, step.operands[0], kind, sizes, _listed(arguments["dim"]), arguments["norm"])


def _listed(value: Any) -> Any:
    return value if value is None or isinstance(value, list | tuple) else (value,)
