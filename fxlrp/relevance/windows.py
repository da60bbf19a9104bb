"""Windows of pooling operations. One-dimensional pooling is two-dimensional pooling over a single row."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class Window(NamedTuple):
    """A pooling window over two or three dimensions."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


def ntuple(value: Any, dims: int) -> tuple[Any, ...]:
    """``value`` for each of ``dims`` dimensions."""
    if not isinstance(value, list | tuple):
        return (value,) * dims
    return tuple(value) if len(value) == dims else tuple(value) * dims


def window(dims: int, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1) -> Window:
    """The window given by the arguments of a pooling operation over ``dims`` dimensions."""
    kernel = ntuple(kernel_size, dims)
    # In ATen an empty stride means the kernel size, as None does in torch.nn.functional.
    steps = ntuple(stride, dims) if stride or stride == 0 else kernel
    pads, dilations = ntuple(padding, dims), ntuple(dilation, dims)
    if dims == 1:
        return Window((1, *kernel), (1, *steps), (0, *pads), (1, *dilations))
    return Window(kernel, steps, pads, dilations)


def lift(x: Tensor, dims: int) -> Tensor:
    """``x`` in the shape for pooling over at least two dimensions."""
    return x.unsqueeze(-2) if dims == 1 else x


def lower(x: Tensor, dims: int) -> Tensor:
    """Undo :func:`lift`."""
    return x.squeeze(-2) if dims == 1 else x
