"""ATen's fused kernels of attention, by device, with the calls that each takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from fxlrp.attention.call import Call

_ATEN = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)

Three: TypeAlias = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Kernel:
    """A fused kernel.

    Args:
        fits: Whether it takes a call, of which any kernel could take the types and shapes.
        forward: Computes the result and the logarithms of the sums of exponentials of a call in its layout.
        backward: Computes the vector-Jacobian products for queries, keys and values, given the cotangent, the call,
            and the results of ``forward``.
        shares_heads: Whether it takes fewer heads of keys and values than of queries, each of which several share.
    """

    fits: Callable[[Call], bool]
    forward: Callable[[Call], tuple[Tensor, Tensor]]
    backward: Callable[[Tensor, Call, Tensor, Tensor], Three]
    shares_heads: bool = False


_WRITTEN_OUT: ContextVar[bool] = ContextVar("attention is written out", default=False)


@contextmanager
def written_out() -> Iterator[None]:
    """Use no kernel: they exist on some devices, and other runtimes have none of them."""
    token = _WRITTEN_OUT.set(True)
    try:
        yield
    finally:
        _WRITTEN_OUT.reset(token)


def kernel_for(call: Call) -> Kernel | None:
    """The first kernel that takes a call; None if none does."""
    # Files are written without TorchDynamo, which does not know context variables.
    if not torch.compiler.is_dynamo_compiling() and _WRITTEN_OUT.get():
        return None
    operands = (call.query, call.keys, call.value)
    if len({each.dtype for each in operands}) > 1:
        return None
    # A symbolic size is not compared: it would be fixed.
    if any(isinstance(size, int) and size == 0 for each in operands for size in each.shape):
        return None
    if call.mask is not None and not _broadcasts(call.mask, call):
        return None
    return next((each for each in _KERNELS.get(call.query.device.type, ()) if each.fits(call)), None)


def _broadcasts(mask: Tensor, call: Call) -> bool:
    """Whether the mask broadcasts to the scores, and the scores not to the mask."""
    scores = (*call.batch, call.query.size(-2), call.keys.size(-1))
    if mask.dim() > len(scores):
        return False
    own = scores[len(scores) - mask.dim() :]
    return all(m == 1 or m == n for m, n in zip(mask.shape, own, strict=True))


def _heads_are_equal(call: Call) -> bool:
    return call.query.size(-1) == call.value.size(-1)


def _fits_cpu(call: Call) -> bool:
    return _heads_are_equal(call) and call.query.dtype in (torch.float64, torch.float32, *_HALF)


def _cpu(call: Call) -> tuple[Tensor, Tensor]:
    how = {"attn_mask": call.mask, "scale": call.scale}
    out, kept = _ATEN._scaled_dot_product_flash_attention_for_cpu.default(
        call.query, call.keys, call.value, 0.0, call.is_causal, **how
    )
    return out, kept


def _cpu_backward(u: Tensor, call: Call, out: Tensor, kept: Tensor) -> Three:
    how = {"attn_mask": call.mask, "scale": call.scale}
    of_query, of_key, of_value = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward.default(
        u, call.query, call.keys, call.value, out, kept, 0.0, call.is_causal, **how
    )
    return of_query, of_key, of_value


def _fits_flash(call: Call) -> bool:
    """Half precision without a mask, on devices of capability 8 and later."""
    size = call.query.size(-1)
    return (
        call.mask is None
        and call.query.dtype in _HALF
        and _heads_are_equal(call)
        and size % 8 == 0
        and size <= 256
        # The kernel aligns the last query with the last key.
        and (not call.is_causal or call.query.size(-2) == call.keys.size(-1))
        and torch.cuda.get_device_capability(call.query.device) >= (8, 0)
    )


def _flash(call: Call) -> tuple[Tensor, Tensor]:
    results = _ATEN._scaled_dot_product_flash_attention.default(
        call.query, call.keys, call.value, 0.0, call.is_causal, False, scale=call.scale
    )
    return results[0], results[1]


def _flash_backward(u: Tensor, call: Call, out: Tensor, kept: Tensor) -> Three:
    # Without dropout the state of the generator is not read.
    state = torch.zeros((), dtype=torch.int64, device=u.device)
    lengths = (None, None, call.query.size(-2), call.keys.size(-2))
    of_query, of_key, of_value = _ATEN._scaled_dot_product_flash_attention_backward.default(
        u, call.query, call.keys, call.value, out, kept, *lengths, 0.0, call.is_causal, state, state, scale=call.scale
    )
    return of_query, of_key, of_value


def _fits_efficient(call: Call) -> bool:
    """Head sizes whose rows are aligned to 16 bytes."""
    aligned = 16 // call.query.element_size()
    sizes = (call.query.size(-1), call.value.size(-1))
    return call.query.dtype in (torch.float32, *_HALF) and all(size % aligned == 0 for size in sizes)


def _aligned_mask(call: Call) -> Tensor | None:
    """The mask for all heads, with rows that start at multiples of 8 elements."""
    if call.mask is None:
        return None
    length, others = call.mask.size(-1), call.keys.size(-2)
    mask = call.mask if length == others else call.mask.expand(*call.mask.shape[:-1], others)
    padded = F.pad(mask, (0, -others % 8))[..., :others]
    return padded.expand(*call.query.shape[:-1], others)


def _efficient(call: Call) -> tuple[Tensor, Tensor]:
    results = _ATEN._scaled_dot_product_efficient_attention.default(
        call.query, call.keys, call.value, _aligned_mask(call), True, 0.0, call.is_causal, scale=call.scale
    )
    return results[0], results[1]


def _efficient_backward(u: Tensor, call: Call, out: Tensor, kept: Tensor) -> Three:
    state = torch.zeros((), dtype=torch.int64, device=u.device)
    wanted = [True, True, True, False]
    of_query, of_key, of_value, _ = _ATEN._scaled_dot_product_efficient_attention_backward.default(
        u,
        call.query,
        call.keys,
        call.value,
        _aligned_mask(call),
        out,
        kept,
        state,
        state,
        0.0,
        wanted,
        call.is_causal,
        scale=call.scale,
    )
    return of_query, of_key, of_value


_KERNELS: Mapping[str, tuple[Kernel, ...]] = {
    "cpu": (Kernel(_fits_cpu, _cpu, _cpu_backward, shares_heads=True),),
    "cuda": (Kernel(_fits_flash, _flash, _flash_backward), Kernel(_fits_efficient, _efficient, _efficient_backward)),
}
