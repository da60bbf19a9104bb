"""What an explainer reads at places inside a model: values, and their relevance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Place:
    """A value inside a model, and its relevance.

    Args:
        value: The value.
        relevance: Its relevance, of the same shape.
        channel_dim: The dimension of its channels, counted from the last; None if the graph does not show it.
    """

    value: Tensor
    relevance: Tensor
    channel_dim: int | None


@dataclass(frozen=True)
class Reading:
    """The places that one call read.

    Args:
        places: The places by name.
        output: The explained output.
    """

    places: Mapping[str, Place]
    output: Tensor

    def __repr__(self) -> str:
        """The shapes, in place of the tensors."""
        shapes = ", ".join(f"{name!r}: {tuple(place.value.shape)}" for name, place in self.places.items())
        return f"Reading(places of shapes {{{shapes}}}, output of shape {tuple(self.output.shape)})"

    def __getitem__(self, name: str) -> Place:
        """Return the place with a name."""
        return self.places[name]
