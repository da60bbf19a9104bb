"""The initial relevance: the part of the output that is explained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from fxlrp.errors import InputError
from fxlrp.layouts import is_distributed, replicated, whole
from fxlrp.relevance.targets import Each, Target, at_largest, at_last_position, at_target, has_class_for_each_token

__all__ = ["Seed", "Target", "initial_gradient", "initial_relevance"]

Seed: TypeAlias = "Tensor | Callable[[Tensor], Tensor] | Each | None"


def initial_relevance(
    output: Tensor,
    target: Target = None,
    seed: Seed = None,
    tokens: Sequence[Tensor] = (),
    positions: Tensor | None = None,
) -> Tensor:
    """Return the relevance of the output: its value at the target and zero elsewhere, or the seed.

    Args:
        output: The model's output, ``(batch, ...)``.
        target: The outputs to explain; see :meth:`fxlrp.Explainer.forward`. Default: the largest output of each sample,
            and for a language model that of the last position.
        seed: The initial relevance in the shape of ``output``, or a function that computes it from ``output``.
        tokens: The inputs that are tokens, which show whether the model is a language model.
        positions: The positions of the output that were computed, those of the target; None for all.

    Raises:
        InputError: Both are given, or one does not fit the output.
    """
    if not isinstance(output, Tensor):
        raise InputError(f"the model returned a {type(output).__name__}, but only a single tensor can be explained")
    if is_distributed(output):
        return replicated(
            initial_relevance(whole(output), *_here(target, seed), tuple(map(whole, tokens)), positions), output
        )
    if seed is not None:
        if target is not None:
            raise InputError("give either a target or a seed, not both")
        if isinstance(seed, Each):
            raise InputError("several seeds need a program for several questions: call the explainer, not its graph")
        return _seed_relevance(output, seed)
    if output.dim() == 0:
        if target is not None:
            raise InputError("the output is a single number; it takes no target")
        return output.clone()
    if target is not None:
        return at_target(output, target, tokens, selected=positions is not None)
    if output.dim() == 1:
        return output.clone()
    if positions is not None or has_class_for_each_token(output, tokens):
        return at_last_position(output)
    return at_largest(output)


def initial_gradient(
    output: Tensor,
    target: Target = None,
    seed: Seed = None,
    tokens: Sequence[Tensor] = (),
    positions: Tensor | None = None,
) -> Tensor:
    """Return the gradient with which an explanation starts: 1 at the target and zero elsewhere, or the seed.

    Args and errors are those of :func:`initial_relevance`.
    """
    if not isinstance(output, Tensor) or seed is not None:
        return initial_relevance(output, target, seed, tokens, positions)
    if is_distributed(output):
        return replicated(
            initial_gradient(whole(output), *_here(target, seed), tuple(map(whole, tokens)), positions), output
        )
    ones = torch.ones_like(output)
    if target is not None or output.dim() < 2:
        return initial_relevance(ones, target, None, tokens, positions)
    if positions is not None or has_class_for_each_token(output, tokens):
        last = output.shape[1] - 1
        return at_target(ones, (last, output[:, -1].argmax(-1)))
    flat = ones.flatten(1)
    return at_target(flat, output.flatten(1).argmax(1)).reshape(output.shape)


def _here(target: Target, seed: Seed) -> tuple[Target, Seed]:
    """A target and a seed with all of their elements on this device."""
    return (
        whole(target) if isinstance(target, Tensor) else target,
        whole(seed) if isinstance(seed, Tensor) else seed,
    )


def _seed_relevance(output: Tensor, seed: Tensor | Callable[[Tensor], Tensor]) -> Tensor:
    if not isinstance(seed, Tensor) and not callable(seed):
        raise InputError(f"the seed must be a tensor or a function that returns one, not {type(seed).__name__}")
    # A seed function receives a copy, because later steps read the output itself.
    relevance = seed if isinstance(seed, Tensor) else seed(output.clone())
    if not isinstance(relevance, Tensor):
        raise InputError(f"the seed function must return a tensor, not a {type(relevance).__name__}")
    if relevance.is_nested:
        raise InputError("the seed is a nested tensor: pad it, with torch.nested.to_padded_tensor(...)")
    if relevance.shape != output.shape:
        raise InputError(f"the seed has shape {tuple(relevance.shape)}, but the output has shape {tuple(output.shape)}")
    if relevance.is_complex():
        raise InputError(f"the seed is {relevance.dtype}, but relevance is a real number")
    if relevance.layout != torch.strided:
        raise InputError(f"the seed has the layout {relevance.layout}: convert it with seed.to_dense()")
    if relevance.device != output.device:
        raise InputError(f"the seed is on {relevance.device}, but the output is on {output.device}")
    # Copy the seed, because an explanation may return it as its result.
    return relevance.to(output.dtype, copy=True)
