"""The transposed map of a convolution for several questions at once: they are one larger batch.

``torch.vmap`` does the same, but gives the kernel an expanded tensor in place of the input, of which only the shape
counts, and the kernel copies it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

_is_stacked: Callable[[Tensor], bool] = attrgetter("_C._functorch.is_batchedtensor")(torch)


def are_stacked(r: Tensor, weight: Tensor) -> bool:
    """Whether ``torch.vmap`` runs a program in which relevance differs by question, and the weight does not.

    False where derivatives are computed, which need PyTorch's own operations, and where the program is compiled.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return _is_stacked(r) and not _is_stacked(weight)


def stacked_transposed(r: Tensor, weight: Tensor, x: Tensor, geometry: Sequence[Any]) -> Tensor:
    """``W^T(r)`` by ``aten.convolution_backward``; ``geometry`` are its arguments from the stride on."""
    result: Tensor = _Transposed.apply(r, weight, x, *geometry)  # type: ignore[no-untyped-call]
    return result


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(r: Tensor, weight: Tensor, x: Tensor, *geometry: Any) -> Tensor:
        result: Tensor = torch.ops.aten.convolution_backward.default(r, x, weight, None, *geometry)[0]
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: there are no derivatives."""

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], r: Tensor, weight: Tensor, x: Tensor, *geometry: Any) -> Any:
        dim_of_r, _, dim_of_x, *_ = in_dims
        assert dim_of_r is not None
        r = r.movedim(dim_of_r, 0)
        x = x if dim_of_x is None else x.select(dim_of_x, 0)
        shape, layout = (len(r) * len(x), *x.shape[1:]), torch.contiguous_format
        if (
            x.dim() == 4
            and not _is_stacked(x)
            and not x.is_contiguous()
            and x.is_contiguous(memory_format=torch.channels_last)
        ):
            layout = torch.channels_last
        unread = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
        result = stacked_transposed(r.flatten(0, 1), weight, unread, geometry)
        return result.unflatten(0, (len(r), len(x))), 0
