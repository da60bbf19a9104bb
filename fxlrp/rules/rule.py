"""The base class of all rules."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from fxlrp.errors import RuleError


@dataclass(frozen=True)
class Rule:
    """Base class of all rules. Rules are immutable and can be compared and printed."""

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
        """The name and the parameters, as in ``Gamma(gamma=0.25)``, without a default ``stabilizer`` or ``bias``."""
        shown = [
            f"{field.name}={_short(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if not (field.name in ("stabilizer", "bias") and getattr(self, field.name) == field.default)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return "(" + ", ".join(_short(item) for item in value) + ")"
    return str(getattr(value, "__name__", value))


def require_number(rule: Rule, name: str, *, positive: bool = False) -> None:
    """Check that a parameter of a rule is a number of at least 0, or greater than 0 if ``positive``."""
    value = getattr(rule, name)
    if isinstance(value, float) and type(value) is not float:
        # NumPy's floats are instances of float too, but their repr is not valid in generated code.
        object.__setattr__(rule, name, float(value))
    if isinstance(value, bool) or not isinstance(value, int | float) or not value == value or value < 0:
        raise RuleError(f"{type(rule).__name__}: {name} must be a number of at least 0, not {value!r}")
    if positive and value == 0:
        raise RuleError(f"{type(rule).__name__}: {name} must be greater than 0")
