"""Values and relevance as channels and positions."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from fxlrp.arguments import shown
from fxlrp.errors import InputError
from fxlrp.explainer import Explainer
from fxlrp.reading import Place
from fxlrp.relevance.conditions import usual_channel_dim

Reduction: TypeAlias = Literal["sum", "max"]


def by_channel(values: Tensor, dim: int) -> Tensor:
    """Return values of shape ``(batch, ...)`` as ``(batch, channels, positions)``.

    Args:
        values: The values.
        dim: The dimension of the channels.
    """
    return values.movedim(dim, 1).flatten(2) if values.dim() > 2 else values.movedim(dim, 1).unsqueeze(2)


def dim_of(name: str, place: Place, batch: int) -> int:
    """Return the dimension of the channels of a place.

    Args:
        name: The name of the place, for messages.
        place: The place.
        batch: The number of samples.

    Raises:
        InputError: The dimension is not known, or the first dimension of the value is not that of the samples.
    """
    value = place.value
    if value.dim() < 2 or value.shape[0] != batch:
        raise InputError(
            f"at={name!r}: the value of shape {tuple(value.shape)} does not have the {batch} samples as its first "
            "dimension and channels after it: choose another place"
        )
    dim = usual_channel_dim(value) if place.channel_dim is None else place.channel_dim
    if dim is None or dim % value.dim() == 0:
        raise InputError(
            f"at={name!r}: the dimension of the channels of a value of shape {tuple(value.shape)} is not known: choose "
            "the result of a convolution, a dense layer or a norm"
        )
    return dim % value.dim()


def scores(values: Tensor, reduce: Reduction) -> tuple[Tensor, Tensor]:
    """Return the score of each channel, and the position of its largest value; the first of equal ones.

    Args:
        values: Values of shape ``(batch, channels, positions)``.
        reduce: Whether the score is the sum or the maximum over the positions.

    Returns:
        Two tensors of shape ``(batch, channels)`` on the CPU: the scores in double precision, and the positions.
    """
    largest, positions = values.max(2)
    score = largest if reduce == "max" else values.sum(2, dtype=_wide(values.dtype))
    return score.to("cpu", torch.float64), positions.cpu()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def coordinates(positions: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return flat positions in a space of some shape as coordinates, in a last dimension.

    Args:
        positions: The positions.
        shape: The sizes of the space; empty for a single position.
    """
    if not shape:
        return positions.new_empty((*positions.shape, 0))
    strides = [math.prod(shape[index + 1 :]) for index in range(len(shape))]
    return torch.stack([positions // stride % size for stride, size in zip(strides, shape, strict=True)], -1)


def check_explainer(explain: Any) -> None:
    """Check an argument that is an explainer.

    Raises:
        InputError: It is something else.
    """
    if not isinstance(explain, Explainer):
        raise InputError(f"explain must be an explainer, as fxlrp.compile returns it, not {shown(explain)}")


def channel_relevance(explain: Explainer, *inputs: Any, at: str, **question: Any) -> Tensor:
    """Compute the relevance of each channel of a place: the sum over its positions.

    Args:
        explain: The explainer.
        inputs: As for :meth:`fxlrp.Explainer.forward`.
        at: The name of the place.
        question: The other arguments of :meth:`fxlrp.Explainer.read`, such as ``target=``.

    Returns:
        The relevance, of shape ``(batch, channels)``. Its ``topk`` are the concepts of each sample.

    Raises:
        InputError: The dimension of the channels is not known, or an argument does not fit.

    Example:
        >>> import torch, fxlrp
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(),
        ...                             torch.nn.Linear(32, 5)).eval()
        >>> explain = fxlrp.compile(model)
        >>> fxlrp.concepts.channel_relevance(explain, torch.ones(2, 3, 4, 4), at="0", target=1).shape
        torch.Size([2, 8])
    """
    check_explainer(explain)
    reading = explain.read(*inputs, at=at, **question)
    if len(reading.places) != 1:
        raise InputError(f"at={shown(at)} must be the name of one place, not of {len(reading.places)}")
    ((name, place),) = reading.places.items()
    return by_channel(place.relevance, dim_of(name, place, len(reading.output))).sum(2)
