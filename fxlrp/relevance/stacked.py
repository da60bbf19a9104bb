"""Several questions with one forward program: their initial relevance and conditions, stacked in front."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from fxlrp.capture.lock import is_compiling
from fxlrp.errors import InputError
from fxlrp.relevance.coefficients import initial_coefficient
from fxlrp.relevance.conditions import mask_of
from fxlrp.relevance.initial_relevance import Seed, Target, initial_gradient, initial_relevance
from fxlrp.relevance.targets import Each


def initial_relevances(
    output: Tensor,
    target: Target = None,
    seed: Seed = None,
    tokens: Sequence[Tensor] = (),
    positions: Tensor | None = None,
    *,
    initial: Callable[..., Tensor] = initial_relevance,
) -> Tensor:
    """Return ``initial`` of each target or seed, stacked in front; a single one has a dimension of 1."""
    if isinstance(target, Each) and seed is not None:
        raise InputError("give either a target or a seed, not both")
    targets = target.parts if isinstance(target, Each) else (target,)
    seeds = seed.parts if isinstance(seed, Each) else (seed,)
    return torch.stack([initial(output, of, start, tokens, positions) for of in targets for start in seeds])


def initial_coefficients(*args: Any, **kwargs: Any) -> Tensor:
    """:func:`initial_relevances`, of coefficients."""
    return initial_relevances(*args, **kwargs, initial=initial_coefficient)


def initial_gradients(*args: Any, **kwargs: Any) -> Tensor:
    """:func:`initial_relevances`, of gradients."""
    return initial_relevances(*args, **kwargs, initial=initial_gradient)


INITIAL_STACKED: Mapping[str, Callable[..., Tensor]] = {
    "relevance": initial_relevances,
    "coefficient": initial_coefficients,
    "gradient": initial_gradients,
}


def masks_of(value: Tensor, condition: Any, name: str, dim: int | None) -> Tensor | tuple[Any, ...]:
    """Return :func:`mask_of` each condition, stacked in front; a single one has a dimension of 1.

    Functions cannot be stacked: if there are any, the result is a tuple.
    """
    conditions = condition.parts if isinstance(condition, Each) else (condition,)
    masks = tuple(mask_of(value, each, name, dim) for each in conditions)
    if not all(isinstance(mask, Tensor) for mask in masks):
        return masks
    # Of the rank of the value, so that the dimension of the questions stays in front.
    whole = torch.ones((1,) * value.dim(), dtype=torch.bool, device=value.device)
    return torch.stack(torch.broadcast_tensors(whole, *masks)[1:])


def over_questions(
    steps: Callable[..., Any],
    stacked: Sequence[Tensor | tuple[Any, ...]],
    values: Sequence[Any],
    constants: Sequence[Any],
) -> tuple[Tensor, ...]:
    """Run relevance steps for every question, and return their results stacked in front.

    Args:
        steps: A function of the values of one question, and of the values that all have in common.
        stacked: The values of the questions, stacked in front, or in a tuple; those with one element are for all.
        values: The values in common that are computed from inputs.
        constants: The others, such as weights.

    Raises:
        InputError: The numbers of targets and conditions differ.
    """
    counts = {_count(value) for value in stacked} - {1}
    if len(counts) > 1:
        raise InputError(
            f"there are {' and '.join(map(str, sorted(counts)))} targets or conditions: give equal numbers"
        )
    count, shared = max(counts, default=1), (*values, *constants)
    size = _at_a_time(count, stacked, values)
    groups = [[_some(value, first, size) for value in stacked] for first in range(0, count, size)]
    answers = [_answers(steps, group, shared) for group in groups]
    return answers[0] if len(answers) == 1 else tuple(map(torch.cat, zip(*answers, strict=True)))


# The GNU C library returns larger blocks to the system when they are freed, and a new one costs a page fault every four
# kilobytes: an operation on them takes twice as long.
_LARGEST_BLOCK = 32 * 2**20


def _at_a_time(count: int, stacked: Sequence[Tensor | tuple[Any, ...]], values: Sequence[Any]) -> int:
    """How many of ``count`` questions are answered together."""
    if torch.compiler.is_exporting() or any(isinstance(value, tuple) for value in stacked):
        # The batch of a file is open, and vmap would fix it. A user's function may do what vmap does not allow.
        return 1
    tensors = [value for value in values if isinstance(value, Tensor)]
    if any(value.layout is not torch.strided for value in tensors):
        return 1  # vmap has no rules for sparse tensors
    if is_compiling() or not all(value.device.type == "cpu" for value in tensors):
        return count
    largest = max((value.nbytes for value in tensors), default=0)
    return min(count, max(1, _LARGEST_BLOCK // max(1, largest)))


def _some(value: Tensor | tuple[Any, ...], first: int, size: int) -> Tensor | tuple[Any, ...]:
    return value if _count(value) == 1 else value[first : first + size]


def _answers(
    steps: Callable[..., Any], stacked: Sequence[Tensor | tuple[Any, ...]], shared: Sequence[Any]
) -> tuple[Tensor, ...]:
    """Answer all questions together, by ``torch.vmap`` unless there is only one."""
    own = tuple(value[0] if _count(value) == 1 else value for value in stacked)
    dims = (*(None if _count(value) == 1 else 0 for value in stacked), *(None for _ in shared))
    results: tuple[Tensor, ...]
    if all(dim is None for dim in dims):
        results = tuple(result.unsqueeze(0) for result in steps(*own, *shared))
        return results
    if is_compiling():
        results = torch.vmap(steps, in_dims=dims)(*own, *shared)
        return results
    with _loops_allowed():
        results = torch.vmap(steps, in_dims=dims)(*own, *shared)
    # A result that no question changes is expanded, and callers may change theirs in place.
    return tuple(result if result.stride(0) else result.clone() for result in results)


def _count(values: Tensor | tuple[Any, ...]) -> int:
    """The number of questions for which there are values."""
    return len(values) if isinstance(values, tuple) else values.shape[0]


@contextmanager
def _loops_allowed() -> Iterator[None]:
    """Do not warn where vmap runs a kernel for one question after the other, as it has to with fused attention."""
    switch: Callable[[bool], None] = attrgetter("_C._functorch._set_vmap_fallback_warning_enabled")(torch)
    switch(False)
    try:
        yield
    finally:
        switch(True)
