"""What a generated program takes and gives: written where relevance is emitted, read by whatever calls the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """One relevance that a program returns.

    Args:
        name: Of the input, or what ``at=`` names.
        value: The node whose relevance it is.
        relevance: The node that computes it; None where none arrives and nothing is returned in its place.
        is_reached: Whether relevance arrives there; else it is zero.
    """

    name: str
    value: str
    relevance: str | None
    is_reached: bool


@dataclass(frozen=True)
class Interface:
    """What a program takes and gives, by the names of its nodes.

    Args:
        inputs: The placeholders of the model's inputs, in order.
        controls: The placeholders behind them, by what each controls: "target" and "seed", or in a backward the
            gradient of each explained value.
        starts: The explained values, each with the node of its initial relevance.
        results: What the program returns, in order.
    """

    inputs: tuple[str, ...]
    controls: Mapping[str, str]
    starts: Mapping[str, str]
    results: tuple[Result, ...]

    def arguments(self, inputs: Sequence[Any], controls: Mapping[str, Any]) -> tuple[Any, ...]:
        """The arguments of a call: the inputs in order, and the controls by name, None for those left out."""
        return (*inputs, *(controls.get(name) for name in self.controls))

    def by_name(self, returned: Any) -> dict[str, Any]:
        """What a call returned, by the names of the results."""
        values = returned if isinstance(returned, tuple) else (returned,)
        return {result.name: value for result, value in zip(self.results, values, strict=True)}

    @property
    def explained(self) -> str:
        """The only explained value of a program that a target or a seed starts."""
        (explained,) = self.starts
        return explained

    @property
    def start(self) -> str:
        """The node of the only initial relevance."""
        return self.starts[self.explained]
