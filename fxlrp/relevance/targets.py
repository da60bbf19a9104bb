"""Targets: which outputs of each sample are explained.

A target is resolved in the program itself, so that an explainer, its graph and a compiled graph accept the same
targets. In an exported file a target that is a tensor remains an input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Protocol, SupportsIndex, TypeAlias

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from fxlrp.arguments import shown
from fxlrp.capture.lock import is_compiling
from fxlrp.errors import InputError
from fxlrp.wrapped import layers


class Array(Protocol):
    """An array, such as one of NumPy."""

    def __array__(self) -> Any:
        """Return the values."""


Target: TypeAlias = "SupportsIndex | Tensor | Array | Sequence[Any] | slice | EllipsisType | Choice | Each | None"

_NUMBERS = (int, torch.SymInt)
_ACCEPTED = (
    "an integer, one integer for each sample (a list, an array or a tensor), or a tuple with one of these, a slice or "
    "... for each dimension of the output after the batch"
)


@dataclass(frozen=True)
class Each:
    """Several targets, seeds or conditions that are asked in one call; see :func:`fxlrp.targets.each`.

    Args:
        parts: The targets, seeds or conditions.
    """

    parts: tuple[Any, ...]


# torch.export takes the arguments of a call apart.
pytree.register_pytree_node(
    Each,
    lambda each: (list(each.parts), None),
    lambda parts, _: Each(tuple(parts)),
    serialized_type_name="fxlrp.targets.Each",
    flatten_with_keys_fn=lambda each: (
        [(pytree.SequenceKey(index), part) for index, part in enumerate(each.parts)],
        None,
    ),
)


class Choice(ABC):
    """A target that weighs or selects outputs in another way than by indices."""

    @abstractmethod
    def relevance(self, output: Tensor, tokens: Sequence[Tensor], *, selected: bool) -> Tensor:
        """Return the initial relevance.

        Args:
            output: The model's output, ``(batch, ...)``.
            tokens: The inputs that are tokens.
            selected: Whether the output has only those positions that :meth:`positions` returns.
        """

    @abstractmethod
    def positions(self, output: Tensor) -> Tensor | None:
        """Return the positions of the second dimension of the output that it reads, as :func:`positions_of` does."""


def at_target(output: Tensor, target: Target, tokens: Sequence[Tensor] = (), *, selected: bool = False) -> Tensor:
    """Return ``output`` at the target, and zero everywhere else.

    Args:
        output: The model's output, ``(batch, ...)``.
        target: As for :meth:`fxlrp.Explainer.forward`, but not None.
        tokens: The inputs that are tokens.
        selected: Whether the output has only those positions of its second dimension that the target selects.

    Raises:
        InputError: The target is of a wrong type, does not fit the output, or is out of range.
    """
    if isinstance(target, Choice):
        return target.relevance(output, tokens, selected=selected)
    parts = _for_each_dimension(target, output)
    indices = [
        None if selected and dim == 1 else _positions(index, output, dim) for dim, index in enumerate(parts, start=1)
    ]
    kept = _keep(output, indices, 1)
    return output.clone() if kept is output else kept


def positions_of(target: Target, output: Tensor) -> Tensor | None:
    """Return the positions of the second dimension that a target selects, ``(batch or 1, count)``; None for all.

    Args:
        target: As for :func:`at_target`.
        output: A tensor of the shape and on the device of the model's output.

    Raises:
        InputError: The target does not fit the output.
    """
    if isinstance(target, Each):
        return _common_positions(target.parts, output)
    if isinstance(target, Choice):
        return target.positions(output)
    parts = _for_each_dimension(target, output)
    positions, *_ = [_positions(index, output, dim) for dim, index in enumerate(parts, start=1)]
    return positions


def _common_positions(targets: Sequence[Target], output: Tensor) -> Tensor | None:
    """The positions that several targets select, if they are the same numbers; None for all positions."""
    firsts = {first_index(target) for target in targets}
    return positions_of(targets[0], output) if len(firsts) == 1 and None not in firsts else None


def first_index(target: Target) -> int | None:
    """The first index of a target with several; None if it is not one number for all samples."""
    first = target[0] if isinstance(target, tuple) and target else None
    return first if isinstance(first, int) and not isinstance(first, bool) else None


def has_class_for_each_token(output: Tensor, tokens: Sequence[Tensor]) -> bool:
    """Whether the output is that of a language model: ``(batch, length, classes)`` for tokens ``(batch, length)``."""
    return output.dim() == 3 and any(each.dim() == 2 and each.shape[1] == output.shape[1] for each in tokens)


def at_largest(output: Tensor) -> Tensor:
    """Return ``output`` at the largest element of each sample, and zero everywhere else."""
    flat = output.flatten(1)
    return _keep(flat, [flat.argmax(1, keepdim=True)], 1).reshape(output.shape)


def at_last_position(output: Tensor) -> Tensor:
    """Return ``output``, ``(batch, tokens, classes)``, at the largest class of the last position of each sample."""
    last = torch.full((1, 1), output.shape[1] - 1, dtype=torch.long, device=output.device)
    return _keep(output, [last, output[:, -1].argmax(1, keepdim=True)], 1)


def _keep(values: Tensor, indices: Sequence[Tensor | None], dim: int) -> Tensor:
    """``values`` at the positions from dimension ``dim`` on, and zero everywhere else; None keeps a whole dimension."""
    if dim == values.dim():
        return values
    positions = indices[dim - 1]
    if positions is None:
        return _keep(values, indices, dim + 1)
    # The indices of gather, which rejects a position that is out of range in a compiled graph and in a file.
    around = [1] * (values.dim() - 1)
    shape = [*values.shape[:dim], positions.shape[1], *values.shape[dim + 1 :]]
    index = positions.reshape([positions.shape[0], *around[: dim - 1], positions.shape[1], *around[dim:]]).expand(shape)
    return torch.zeros_like(values).scatter(dim, index, _keep(values.gather(dim, index), indices, dim + 1))


def _for_each_dimension(target: Target, output: Tensor) -> Sequence[Any]:
    """The part of the target for each dimension of the output after the batch."""
    dims = output.dim() - 1
    if isinstance(target, tuple):
        parts = list(target)
        if sum(part is ... for part in parts) == 1 and len(parts) < dims:
            at = next(position for position, part in enumerate(parts) if part is ...)
            parts[at:at] = [...] * (dims - len(parts))
    elif _is_many(target):
        values = _integers(target, output.device)
        # With several dimensions a row for each sample, as from nonzero() or a list of pairs.
        rows = values.dim() == 2 and values.shape[1] == dims
        parts = list(values.unsqueeze(-1).unbind(1)) if rows else [values]
    elif target is ...:
        parts = [...] * dims
    elif isinstance(target, slice) or _integer(target) is not None:
        parts = [target]
    else:
        raise InputError(f"the target must be {_ACCEPTED}, not {shown(target)}")
    if len(parts) != dims:
        example = f", such as ({', '.join(['0', *['...'] * (dims - 1)])})" if dims > 1 else ""
        needed = f"needs {dims} for each sample{example}" if dims else "takes no target"
        raise InputError(
            f"the target {_described(target)} has {len(parts)} {'index' if len(parts) == 1 else 'indices'}, but an "
            f"output of shape {tuple(output.shape)} {needed}"
        )
    return parts


def _is_many(value: Any) -> bool:
    """Whether a value contains indices: a tensor, an array, a number of NumPy, or a list."""
    # In a compiled graph neither symbolic integers nor slices support hasattr.
    other = (*_NUMBERS, slice, EllipsisType)
    return isinstance(value, Tensor | list) or (not isinstance(value, other) and hasattr(value, "__array__"))


def _positions(index: Any, output: Tensor, dim: int) -> Tensor | None:
    """The positions along ``dim``, ``(batch or 1, count)``; None for all."""
    size = output.shape[dim]
    if index is ...:
        return None
    if isinstance(index, slice):
        return _of_slice(index, size, output.device)
    if _is_many(index):
        return _of_samples(_integers(index, output.device), output, dim)
    position = _integer(index)
    if position is None:
        raise InputError(f"the target must be {_ACCEPTED}, not {shown(index)}")
    if not -size <= position < size:
        raise InputError(
            f"the target {shown(index)} is out of range for dimension {dim} of an output of shape {tuple(output.shape)}"
        )
    position = position + size if position < 0 else position
    return torch.full((1, 1), position, dtype=torch.long, device=output.device)


def as_constant(target: Any) -> tuple[int | slice | EllipsisType, ...] | None:
    """The parts of a target that a program can contain: integers, slices and ``...``; None for any other target."""
    parts = target if isinstance(target, tuple) else (target,)
    found = [part if part is ... or isinstance(part, slice) else _integer(part) for part in parts]
    return None if any(part is None for part in found) else tuple(found)


def _integer(value: Any) -> Any:
    """An integer, of Python or NumPy or a symbolic one; None for anything else."""
    if isinstance(value, _NUMBERS):
        return None if isinstance(value, bool) else value
    return value.__index__() if isinstance(value, SupportsIndex) and not isinstance(value, Tensor) else None


def _of_slice(index: slice, size: Any, device: torch.device) -> Tensor | None:
    given = (index.start, index.stop, index.step)
    start, stop, step = (None if end is None else _integer(end) for end in given)
    if any(end is not None and _integer(end) is None for end in given) or (step is not None and step < 1):
        raise InputError(f"a slice of the target must have integers, and a positive step, not {shown(index)}")
    if start is None and stop is None and step is None:
        return None
    positions = torch.arange(size, device=device)[start:stop:step]
    if positions.shape[0] == 0:
        raise InputError(f"the target {shown(index)} selects nothing from a dimension of {size}")
    return positions.unsqueeze(0)


def _integers(value: Any, device: torch.device) -> Tensor:
    """Indices as a LongTensor: a tensor must be on the device of the output, lists and arrays are copied to it."""
    try:
        indices = value if isinstance(value, Tensor) else torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the target must be {_ACCEPTED}, not {shown(value)}") from error
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        hint = ": an initial relevance, such as a one-hot vector, is seed=..." * indices.is_floating_point()
        raise InputError(f"the target must contain integers, not {indices.dtype}{hint}")
    if indices.device != device:
        raise InputError(f"the target is on {indices.device}, but the output is on {device}")
    return indices.long()


def _of_samples(index: Tensor, output: Tensor, dim: int) -> Tensor:
    """One position for each sample; a single one is for all samples."""
    if index.dim() == 2 and index.shape[1] == 1:
        index = index.squeeze(1)
    batch, size = output.shape[0], output.shape[dim]
    if index.dim() > 1 or (index.dim() == 1 and index.shape[0] != batch and index.shape[0] != 1):
        raise InputError(
            f"a target of shape {tuple(index.shape)} does not fit an output of shape {tuple(output.shape)}: it must "
            "contain one index for each sample"
        )
    # Reading values would break a compiled graph; there, gather itself rejects a wrong index.
    if not is_compiling() and not _are_indices(index, size):
        raise InputError(
            f"a target index is out of range: dimension {dim} of the output has {size} elements, but the target "
            f"is {_described(index)}"
        )
    return torch.where(index < 0, index + size, index).reshape(-1, 1)


def _are_indices(index: Tensor, size: int) -> bool:
    """Whether all numbers are indices of a dimension; under ``torch.vmap`` those of all calls."""
    *_, values = layers(index)
    return bool(((values >= -size) & (values < size)).all())


def _described(target: Any) -> str:
    if isinstance(target, Tensor):
        *_, target = layers(target)
        return f"{target.tolist()}" if target.numel() <= 8 else f"of shape {tuple(target.shape)}"
    return shown(target)
