"""Targets beyond indices: several in one call, contrasts, spans of tokens, regions.

``explain(x, target=...)`` accepts an index, or one of these.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxlrp.arguments import shown
from fxlrp.errors import InputError
from fxlrp.integers import is_integer
from fxlrp.relevance.targets import Choice, Each, Target, at_target, first_index, positions_of

_MOST_TARGETS = 1_000_000

__all__ = ["Clrp", "Contrast", "Region", "Span", "clrp", "contrast", "each", "region", "span"]


def each(targets: Iterable[Any] | Tensor) -> Each:
    """Ask for several targets or seeds in one call: one forward pass, results stacked in front.

    Args:
        targets: The targets, or the seeds if it is passed as ``seed=``. A tensor is divided along its first dimension.

    Returns:
        A target or a seed. The results of a call with it have the shape ``(number of targets, batch, ...)``.

    Raises:
        InputError: There are no targets, or they are not in a list.

    Example:
        >>> import torch, fxlrp
        >>> explain = fxlrp.compile(torch.nn.Linear(4, 3).eval())
        >>> explain(torch.ones(2, 4), target=fxlrp.targets.each([0, 2])).shape
        torch.Size([2, 2, 4])
    """
    is_many = (
        targets.dim() > 0 and not targets.is_nested if isinstance(targets, Tensor) else isinstance(targets, Iterable)
    )
    if not is_many or isinstance(targets, str | bytes | Mapping):
        raise InputError(f"each() needs a list of targets or seeds, not {shown(targets)}")
    # No more than a batch can hold; an iterator may have no end.
    parts = tuple(itertools.islice(targets, _MOST_TARGETS + 1))
    if len(parts) > _MOST_TARGETS:
        raise InputError(f"each() takes at most {_MOST_TARGETS} targets: ask for them in several calls")
    if not parts:
        raise InputError("each() needs at least one target")
    return Each(parts)


@dataclass(frozen=True)
class Contrast(Choice):
    """The target that :func:`contrast` returns."""

    of: Any
    against: Any = None
    dim: int | None = None

    def relevance(self, output: Tensor, tokens: Sequence[Tensor], *, selected: bool) -> Tensor:
        """Return the output at one target, and the negative output at the other."""
        own = at_target(output, self.of, tokens, selected=selected)
        if self.against is not None:
            return own - at_target(output, self.against, tokens, selected=selected)
        dim = _class_dim(output, self.dim)
        mask = at_target(torch.ones_like(output), self.of, tokens, selected=selected) != 0
        others = mask.any(dim, keepdim=True) & ~mask
        return own - output * others / others.sum(dim, keepdim=True).clamp(min=1)

    def positions(self, output: Tensor) -> Tensor | None:
        """Return the positions of the targets, if they are the same."""
        same = self.against is None or (
            first_index(self.of) is not None and first_index(self.of) == first_index(self.against)
        )
        along_classes = self.against is not None or self.dim in (None, -1, 2)
        return positions_of(self.of, output) if same and along_classes else None


def contrast(of: Target, against: Target = None, *, dim: int | None = None) -> Contrast:
    """Explain the difference between one output and others.

    ``contrast(3, 7)`` explains ``z_3 - z_7``. ``contrast(3)`` explains class 3 against the others, ``z_3`` minus their
    mean.

    Args:
        of: A target, as for :meth:`fxlrp.Explainer.forward`.
        against: Another target. None means the other classes.
        dim: The dimension of the classes, where ``against`` is None. By default it is the last one of an output with
            three dimensions, such as that of a language model, and dimension 1 of any other.

    Returns:
        A target.

    Example:
        >>> import torch, fxlrp
        >>> explain = fxlrp.compile(torch.nn.Linear(4, 3, bias=False).eval(), "epsilon")
        >>> x = torch.ones(1, 4)
        >>> difference = explain(x, target=0) - explain(x, target=2)
        >>> torch.allclose(explain(x, target=fxlrp.targets.contrast(0, 2)), difference, atol=1e-5)
        True
    """
    return Contrast(of, against, _checked_dim(dim))


@dataclass(frozen=True)
class Clrp(Choice):
    """The target that :func:`clrp` returns."""

    of: Any
    dim: int | None = None

    def relevance(self, output: Tensor, tokens: Sequence[Tensor], *, selected: bool) -> Tensor:
        """Return the output at the target, and equal negative parts of it at the other classes."""
        own = at_target(output, self.of, tokens, selected=selected)
        dim = _class_dim(output, self.dim)
        mask = at_target(torch.ones_like(output), self.of, tokens, selected=selected) != 0
        others = mask.any(dim, keepdim=True) & ~mask
        return own - others * own.sum(dim, keepdim=True) / others.sum(dim, keepdim=True).clamp(min=1)

    def positions(self, output: Tensor) -> Tensor | None:
        """Return the positions of the target."""
        return positions_of(self.of, output) if self.dim in (None, -1, 2) else None


def clrp(of: Target, *, dim: int | None = None) -> Clrp:
    """Explain a class against the others by CLRP1 (Gu et al., 2018).

    The relevance starts from the score of the class, and from its negative at the other classes, to which it is
    distributed equally. Rules are linear in the relevance, so the result is ``R - R_dual``, the relevance of the class
    less that of its dual, and ``explain(x, target=clrp(3)).clamp(min=0)`` is the heatmap of the paper. The relevance
    adds up to zero, except for what biases, stabilizers and rules that do not conserve relevance absorb.

    :func:`contrast` starts from the scores of the other classes instead.

    Args:
        of: A target, as for :meth:`fxlrp.Explainer.forward`.
        dim: The dimension of the classes, as for :func:`contrast`.

    Returns:
        A target.

    Example:
        >>> import torch, fxlrp
        >>> explain = fxlrp.compile(torch.nn.Linear(4, 3).eval())
        >>> explain(torch.ones(2, 4), target=fxlrp.targets.clrp(0)).clamp(min=0).shape
        torch.Size([2, 4])
    """
    return Clrp(of, _checked_dim(dim))


def _class_dim(output: Tensor, dim: int | None) -> int:
    """The dimension of the classes: the last one of an output with three dimensions, else dimension 1."""
    found = dim if dim is not None else -1 if output.dim() == 3 else 1
    if not -output.dim() <= found < output.dim() or found % output.dim() == 0:
        raise InputError(
            f"dim={found} must be a dimension of the classes, after the batch, of an output of shape "
            f"{tuple(output.shape)}"
        )
    return found


def _checked_dim(dim: Any) -> int | None:
    if dim is not None and not is_integer(dim):
        raise InputError(f"dim must be the dimension of the classes, an integer, or None, not {shown(dim)}")
    checked: int | None = dim
    return checked


@dataclass(frozen=True)
class Span(Choice):
    """The target that :func:`span` returns."""

    start: int
    stop: int

    def relevance(self, output: Tensor, tokens: Sequence[Tensor], *, selected: bool) -> Tensor:
        """Return the logits of the tokens, each at the position before it."""
        (ids,) = tokens if len(tokens) == 1 else (None,)
        if ids is None or ids.dim() != 2 or output.dim() != 3:
            raise InputError(
                "a span of tokens needs a language model: an input of tokens, (batch, length), and an output of shape "
                f"(batch, length, classes), not {tuple(output.shape)}"
            )
        if not 0 < self.start < self.stop <= ids.shape[1]:
            raise InputError(
                f"the span from {self.start} to {self.stop} must be within the tokens 1 to {ids.shape[1]}: the first "
                "token is not predicted"
            )
        index = ids[:, self.start : self.stop].long().unsqueeze(-1)
        chosen = output if selected else output[:, self.start - 1 : self.stop - 1]
        kept = torch.zeros_like(chosen).scatter(-1, index, chosen.gather(-1, index))
        if selected:
            return kept
        return torch.slice_scatter(torch.zeros_like(output), kept, 1, self.start - 1, self.stop - 1)

    def positions(self, output: Tensor) -> Tensor | None:
        """Return the positions before the tokens."""
        if not 0 < self.start < self.stop <= output.shape[1]:
            return None  # an error of relevance()
        return torch.arange(self.start - 1, self.stop - 1, device=output.device).unsqueeze(0)


def span(start: int, stop: int) -> Span:
    """Explain the tokens from ``start`` to ``stop`` of the input of a language model, in one backward pass.

    It explains the sum of the logits by which the model predicts these tokens, each at the position before it.

    Args:
        start: The position of the first token, at least 1.
        stop: The position after the last token, at most the length of the input.

    Returns:
        A target.

    Raises:
        InputError: A position is not a number.

    Example:
        >>> import torch, fxlrp
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 9)).eval()
        >>> explain = fxlrp.compile(model)
        >>> explain(torch.tensor([[1, 2, 3, 4, 5]]), target=fxlrp.targets.span(3, 5)).shape
        torch.Size([1, 5])
    """
    for position in (start, stop):
        if isinstance(position, bool) or not isinstance(position, int):
            raise InputError(f"a span is from one position to another, not {shown(position)}")
    return Span(start, stop)


@dataclass(frozen=True)
class Region(Choice):
    """The target that :func:`region` returns."""

    of: Any
    mask: Tensor

    def relevance(self, output: Tensor, tokens: Sequence[Tensor], *, selected: bool) -> Tensor:
        """Return the outputs of the class in the region."""
        mask = self.mask
        sizes = zip(reversed(mask.shape), (*reversed(output.shape[2:]), output.shape[0]), strict=False)
        if not 0 < mask.dim() < output.dim() or any(own not in (1, size) for own, size in sizes):
            raise InputError(
                f"the mask of a region, of shape {tuple(mask.shape)}, does not fit an output of shape "
                f"{tuple(output.shape)}: it must have the shape {tuple(output.shape[2:])}, or that of each sample"
            )
        around = mask if mask.dim() < output.dim() - 1 else mask.unsqueeze(1)
        return torch.where(around, at_target(output, (self.of, ...), tokens), 0.0)

    def positions(self, output: Tensor) -> Tensor | None:
        """Return None: a region may be anywhere."""
        return None


def region(of: Target, mask: Tensor) -> Region:
    """Explain a class in a region of an output such as that of a segmentation model, ``(batch, classes, ...)``.

    Args:
        of: The class, or one class for each sample.
        mask: A boolean tensor, True in the region: of the shape of the positions, such as ``(height, width)``, or with
            the batch in front.

    Returns:
        A target.

    Raises:
        InputError: The mask is not a boolean tensor.

    Example:
        >>> import torch, fxlrp
        >>> explain = fxlrp.compile(torch.nn.Conv2d(3, 5, 1).eval())
        >>> mask = torch.zeros(8, 8, dtype=torch.bool)
        >>> mask[2:4, 2:4] = True
        >>> explain(torch.rand(1, 3, 8, 8), target=fxlrp.targets.region(1, mask)).shape
        torch.Size([1, 3, 8, 8])
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise InputError("the mask of a region must be a boolean tensor")
    return Region(of, mask)
