"""The inputs and results of a generated program: set where relevance is emitted, read by callers of the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def condition_on(name: str) -> str:
    """The control with the condition on the value with a name."""
    return f"only {name}"


@dataclass(frozen=True)
class Result:
    """A relevance that a program returns.

    Args:
        name: The name of the input, or the argument ``at=``.
        value: The node whose relevance it is.
        relevance: The node that computes the relevance; None if no relevance arrives and no zeros are returned.
        is_reached: Whether relevance arrives; otherwise it is zero.
        channel_dim: The dimension of the channels of the value, counted from the last, if the graph shows it.
    """

    name: str
    value: str
    relevance: str | None
    is_reached: bool
    channel_dim: int | None = None


@dataclass(frozen=True)
class Interface:
    """The inputs and results of a program, by the names of its nodes.

    Args:
        inputs: The placeholders of the model's inputs, in order.
        controls: The placeholders after them, by what each controls: "target", "seed" and the conditions, or in a
            backward the gradient of each explained value.
        starts: The explained values, each with the node of its initial relevance.
        results: The results of the program, in order.
        conditions: The nodes of the masks of conditions.
        returns_output: Whether the program returns the explained output, as the last.
    """

    inputs: tuple[str, ...]
    controls: Mapping[str, str]
    starts: Mapping[str, str]
    results: tuple[Result, ...]
    conditions: tuple[str, ...] = ()
    returns_output: bool = False

    def arguments(self, inputs: Sequence[Any], controls: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the arguments of a call: the inputs in order, then the controls, None for omitted ones."""
        return (*inputs, *(controls.get(name) for name in self.controls))

    def by_name(self, returned: Any) -> dict[str, Any]:
        """Return the results of a call by name, without the explained output."""
        values = returned if isinstance(returned, tuple) else (returned,)
        return {result.name: value for result, value in zip(self.results, values[: len(self.results)], strict=True)}

    @property
    def differing(self) -> tuple[str, ...]:
        """The names of the nodes whose values differ between several questions."""
        return (*self.starts.values(), *self.conditions)

    @property
    def explained(self) -> str:
        """The name of the only explained value of a program with a target or a seed."""
        (explained,) = self.starts
        return explained

    @property
    def start(self) -> str:
        """The name of the node of the only initial relevance."""
        return self.starts[self.explained]
