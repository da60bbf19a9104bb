"""The initial relevance: the part of the output that is explained."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from fxlrp.errors import InputError

Target: TypeAlias = "int | Tensor | tuple[int, ...] | None"
Seed: TypeAlias = "Tensor | Callable[[Tensor], Tensor] | None"


def initial_relevance(output: Tensor, target: Target = None, seed: Seed = None) -> Tensor:
    """Return the relevance of the output: its value at the target and zero elsewhere, or the seed.

    Args:
        output: The model's output, ``(batch, ...)``.
        target: One index for all samples, a tensor with an index for each sample (``(batch,)``), or a tuple of indices
            for an output with several dimensions. Default: the largest output of each sample.
        seed: The initial relevance in the shape of ``output``, or a function that computes it from ``output``.

    Raises:
        InputError: Both are given, or one does not fit the output.
    """
    if not isinstance(output, Tensor):
        raise InputError(f"the model returned a {type(output).__name__}, but only a single tensor can be explained")
    if seed is not None:
        if target is not None:
            raise InputError("give either a target or a seed, not both")
        return _seed_relevance(output, seed)
    if output.dim() == 0:
        if target is not None:
            raise InputError("the output is a single number; it takes no target")
        return output.clone()
    flat = output.flatten(1) if output.dim() > 1 else output.unsqueeze(1)
    index = _target_index(output, flat, target)
    if index is None:
        return output.clone()
    chosen = torch.zeros_like(flat).scatter(1, index, flat.gather(1, index))
    return chosen.reshape(output.shape)


def _seed_relevance(output: Tensor, seed: Tensor | Callable[[Tensor], Tensor]) -> Tensor:
    if not isinstance(seed, Tensor) and not callable(seed):
        raise InputError(f"the seed must be a tensor or a function that returns one, not {type(seed).__name__}")
    relevance = seed if isinstance(seed, Tensor) else seed(output)
    if not isinstance(relevance, Tensor):
        raise InputError(f"the seed function must return a tensor, not a {type(relevance).__name__}")
    if relevance.shape != output.shape:
        raise InputError(f"the seed has shape {tuple(relevance.shape)}, but the output has shape {tuple(output.shape)}")
    if relevance.device != output.device:
        raise InputError(f"the seed is on {relevance.device}, but the output is on {output.device}")
    # Copy the seed, because an explanation may return it as its result.
    return relevance.to(output.dtype, copy=True)


def _target_index(output: Tensor, flat: Tensor, target: Target) -> Tensor | None:
    """The flat index of the explained output for each sample, ``(batch, 1)``; None for the whole output."""
    batch, shape = output.shape[0], tuple(output.shape[1:])
    if target is None:
        return flat.argmax(dim=1, keepdim=True) if shape else None
    if isinstance(target, Tensor):
        return _tensor_index(flat, shape, target, output.device)
    indices = target if isinstance(target, tuple) else (target,)
    if any(isinstance(index, bool) or not isinstance(index, int | torch.SymInt) for index in indices):
        raise InputError(
            f"the target must be an int, a LongTensor with one index per sample, or a tuple of ints, not {target!r}"
        )
    if len(indices) != len(shape):
        raise InputError(
            f"the target {target!r} has {len(indices)} indices, but an output of shape {tuple(output.shape)} "
            f"needs {len(shape)} for each sample"
        )
    position = 0
    for index, size in zip(indices, shape, strict=True):
        if not 0 <= index < size:
            raise InputError(f"the target {target!r} is out of range for an output of shape {tuple(output.shape)}")
        position = position * size + index
    return torch.full((batch, 1), position, dtype=torch.long, device=output.device)


def _tensor_index(flat: Tensor, shape: tuple[int, ...], target: Tensor, device: torch.device) -> Tensor:
    if target.dtype != torch.long:
        raise InputError(f"a target tensor must be a LongTensor (torch.int64), not {target.dtype}")
    if target.dim() == 0:
        target = target.expand(flat.shape[0])
    if target.dim() != 1 or target.shape[0] != flat.shape[0] or len(shape) != 1:
        raise InputError(
            f"a target tensor of shape {tuple(target.shape)} does not fit an output of shape "
            f"{(flat.shape[0], *shape)}: it must contain one index for each sample of a two-dimensional output"
        )
    if target.device != device:
        raise InputError(f"the target is on {target.device}, but the output is on {device}")
    # Reading values would break a compiled graph; there, gather itself rejects a wrong index.
    if not torch.compiler.is_compiling() and not bool(((target >= 0) & (target < shape[0])).all()):
        raise InputError(f"a target index is out of range: the output has {shape[0]} elements for each sample")
    return target.unsqueeze(1)
