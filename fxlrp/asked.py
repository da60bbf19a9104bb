"""The arguments of a call that ask the question: all except the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from fxlrp.arguments import flag, shown
from fxlrp.errors import InputError
from fxlrp.interface import condition_on
from fxlrp.question import At, Question
from fxlrp.relevance.conditions import Condition
from fxlrp.relevance.initial_relevance import Seed, Target
from fxlrp.relevance.targets import Each

Only: TypeAlias = "Mapping[str, Condition] | list[Mapping[str, Condition]] | None"


@dataclass(frozen=True)
class Asked:
    """The arguments of a call that form the question: all except the inputs.

    Args:
        target: The output to explain.
        seed: The initial relevance.
        at: Where relevance is requested; None for the places of the compilation.
        only: The conditions, by the name of the value; a list of them is several questions.
        bypass: Whether relevance that does not pass through the values in ``only`` counts, too.
        coefficients: Whether the results are coefficients.
        return_output: Whether the explained output is returned, too.
        return_values: Whether the values whose relevance is requested are returned, too.
    """

    target: Target = None
    seed: Seed = None
    at: At = None
    only: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    bypass: bool = False
    coefficients: bool = False
    return_output: bool = False
    return_values: bool = False

    def question(self, base: Question) -> Question:
        """Return the question, given that of the compilation.

        Raises:
            InputError: ``at``, ``only`` or a truth value is malformed.
        """
        where = base if self.at is None else Question.of(self.at)
        return replace(
            where,
            only=self._names(),
            bypass=flag("bypass", self.bypass),
            stacked=any(isinstance(each, Each) for each in (self.target, self.seed)) or isinstance(self.only, list),
            coefficients=flag("coefficients", self.coefficients),
            returns_output=flag("return_output", self.return_output),
            returns_values=self.return_values,
        )

    @property
    def controls(self) -> dict[str, Any]:
        """The controls of the program, by name."""
        conditions = {condition_on(name): value for name, value in self.conditions.items()}
        return {"target": self.target, "seed": self.seed, **conditions}

    @property
    def conditions(self) -> dict[str, Any]:
        """The conditions, by the name of the value."""
        found: dict[str, Any] = {}
        for name in self._names():
            if isinstance(self.only, Mapping):
                found[name] = self.only[name]
            elif self.only is not None:
                found[name] = Each(tuple(each[name] for each in self.only))
        return found

    def _names(self) -> tuple[str, ...]:
        """The names of the values with conditions."""
        if self.only is None:
            return ()
        each = self.only if isinstance(self.only, list) else [self.only]
        if not each or not all(isinstance(one, Mapping) and one and _has_names(one) for one in each):
            raise InputError(
                "only must be a mapping from the names of values to channels, masks or functions, or a list of such "
                f"mappings, not {shown(self.only)}"
            )
        names = tuple(each[0])
        if any(set(one) != set(names) for one in each):
            raise InputError("the conditions of one call must be on the same values: ask the others in another call")
        return names


def _has_names(mapping: Mapping[Any, Any]) -> bool:
    return all(isinstance(name, str) for name in mapping)
