"""The base class of all rules."""

from __future__ import annotations

import dataclasses
import numbers
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from fxlrp.arguments import shown
from fxlrp.errors import RuleError

_LARGEST = torch.finfo(torch.float32).max

# The parameters that only a value other than the default is worth showing for.
_DETAILS = ("stabilizer", "bias", "bias_in_sign", "signal")


@dataclass(frozen=True)
class Rule:
    """Base class of all rules. Rules are immutable and can be compared and printed.

    ``differentiates`` states that a rule passes something to every value that the result depends on, also to those that
    other rules hold constant, such as the denominator of a quotient. ``rowwise`` states that of an operation whose rows
    are computed one by one, as those of a dense layer are, the relevance of each row is, too. ``even`` states that what
    an output passes on is the same for everything that it reads.
    """

    differentiates: ClassVar[bool] = False
    rowwise: ClassVar[bool] = False
    even: ClassVar[bool] = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Rule:
        """Make unknown parameters an error that lists the known ones."""
        names = [field.name for field in dataclasses.fields(cls)]
        needed = [
            field.name
            for field in dataclasses.fields(cls)[len(args) :]
            if field.default is dataclasses.MISSING and field.name not in kwargs
        ]
        unknown = [name for name in kwargs if name not in names]
        if unknown or len(args) > len(names):
            what = f"the parameter {unknown[0]!r}" if unknown else f"{len(args)} parameters"
            known = ", ".join(names) if names else "none"
            raise RuleError(f"{cls.__name__} does not take {what}; it takes: {known}")
        if needed:
            raise RuleError(f"{cls.__name__} needs {' and '.join(needed)}")
        return super().__new__(cls)

    def __reduce__(self) -> tuple[type[Rule], tuple[Any, ...]]:
        """Copy and pickle a rule by its parameters."""
        return type(self), tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def __str__(self) -> str:
        """The name and the parameters, as in ``Gamma(gamma=0.25)``, without details that have their default."""
        shown = [
            f"{field.name}={_short(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if not (field.name in _DETAILS and getattr(self, field.name) == field.default)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_short, value)) + (",)" if len(value) == 1 else ")")
    return str(getattr(value, "__name__", value))


def number(value: Any) -> int | float | None:
    """A number as one of Python's own types; None for anything else, such as a truth value or a tensor.

    Single precision must hold it, because relevance is computed in the type of the input.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    # NumPy's numbers are numbers too, but their repr is not valid in generated code.
    found = int(value) if isinstance(value, numbers.Integral) else float(value)
    return found if abs(found) <= _LARGEST else None


def require_number(rule: Rule, *names: str) -> None:
    """Check that parameters of a rule are finite numbers of at least 0, and make them Python's own."""
    for name in names:
        value = getattr(rule, name)
        found = number(value)
        if found is None or found < 0:
            too_large = isinstance(value, int | float) and value > _LARGEST
            hint = f": single precision holds at most {_LARGEST:.2g}" if too_large else ""
            raise RuleError(
                f"{type(rule).__name__}: {name} must be a finite number of at least 0, not {shown(value)}{hint}"
            )
        object.__setattr__(rule, name, found)


def require_flag(rule: Rule, *names: str) -> None:
    """Check that parameters of a rule are True or False."""
    for name in names:
        if not isinstance(getattr(rule, name), bool):
            raise RuleError(f"{type(rule).__name__}: {name} must be True or False, not {shown(getattr(rule, name))}")


@dataclass(frozen=True)
class Stabilized(Rule):
    """Base class of the rules with a stabilizer."""

    rowwise: ClassVar[bool] = True

    stabilizer: float = 1e-6

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_number(self, "stabilizer")


@dataclass(frozen=True)
class ByEpsilon(Rule):
    """Base class of LRP-epsilon with different stabilizers."""

    rowwise: ClassVar[bool] = True

    epsilon: float = 1e-6
    bias: bool = True

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_number(self, "epsilon")
        require_flag(self, "bias")


@dataclass(frozen=True)
class StabilizedWithBias(Stabilized):
    """Base class of the rules with a stabilizer and a bias that may be left out."""

    bias: bool = True

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        require_flag(self, "bias")
