"""A question to an annotated graph: where relevance is read, what it passes, and in which form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fxlrp.arguments import shown
from fxlrp.errors import InputError


@dataclass(frozen=True)
class Question:
    """What one program answers. Each question has its own program, which is emitted once.

    Args:
        at: The names where relevance is requested; empty for the inputs.
        is_single: Whether the result is one tensor, not a dict: ``at`` was one name.
        only: The names of the values that have conditions, in the order of the conditions.
        bypass: Whether relevance that does not pass through the values in ``only`` counts, too.
        stacked: Whether several questions with one forward are asked, whose results are stacked.
        coefficients: Whether the results are the coefficients ``C`` of ``R = value * C``.
        returns_output: Whether the program also returns the explained output.
        returns_values: Whether the program also returns the values whose relevance is requested.
    """

    at: tuple[str, ...] = ()
    is_single: bool = False
    only: tuple[str, ...] = ()
    bypass: bool = False
    stacked: bool = False
    coefficients: bool = False
    returns_output: bool = False
    returns_values: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """All names of values inside the model."""
        return (*self.at, *self.only)

    @staticmethod
    def of(at: At) -> Question:
        """Return the question for the relevance at places.

        Args:
            at: A name, several names, or None for the inputs.

        Raises:
            InputError: A name is not a string, or there are none.
        """
        if at is None:
            return Question()
        if isinstance(at, str):
            return Question((at,), is_single=not is_glob(at))
        names = tuple(at) if isinstance(at, Sequence) else None
        if not names or not all(isinstance(name, str) for name in names):
            raise InputError(f"at must be a name, or a list of names of inputs, modules or nodes, not {shown(at)}")
        return Question(tuple(dict.fromkeys(names)))

    def __str__(self) -> str:
        """The question in words."""
        parts = [f"{'coefficients' if self.coefficients else 'relevance'} at {', '.join(self.at) or 'the inputs'}"]
        if self.only:
            parts.append(f"passing only {', '.join(self.only)}{' or bypassing them' if self.bypass else ''}")
        return ", ".join(parts)


At: TypeAlias = "str | Sequence[str] | None"


def is_glob(name: str) -> bool:
    """Whether a name is a pattern for several."""
    return any(character in name for character in "*?[")
