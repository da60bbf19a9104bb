"""The sizes for which a traced step is valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy.functions import FloorDiv, Mod

from fxlrp.relevance.sizes import Size, Sizes, Term

_OF_SYMPY: Mapping[Any, str] = {
    sympy.Eq: "==",
    sympy.Ne: "!=",
    sympy.StrictLessThan: "<",
    sympy.LessThan: "<=",
    sympy.StrictGreaterThan: ">",
    sympy.GreaterThan: ">=",
    sympy.Add: "+",
    sympy.Mul: "*",
    Mod: "%",
    FloorDiv: "//",
}


@dataclass(frozen=True)
class Validity:
    """The sizes for which a traced graph is valid, as arguments of :func:`expect_sizes`."""

    sizes: tuple[Sizes, ...]
    conditions: tuple[Term, ...]

    @staticmethod
    def of(environment: ShapeEnv, fakes: Sequence[Any]) -> Validity:
        """Read what a trace assumed about its inputs: numbers that it contains, equal sizes, and conditions."""
        names: dict[sympy.Symbol, str] = {}
        conditions: list[Term] = []
        fixed: set[sympy.Basic] = set()
        symbols = [dim.node.expr for fake in fakes for dim in _dims(fake) if isinstance(dim, torch.SymInt)]
        for symbol in dict.fromkeys(environment.simplify(each) for each in symbols):
            if isinstance(symbol, sympy.Symbol):
                names[symbol] = f"n{len(names)}"
        for guard in environment.guards:
            condition = environment.simplify(guard.expr)
            if condition is sympy.true:
                continue
            term = _term(condition, names)
            if term is None:
                fixed |= condition.free_symbols
            else:
                conditions.append(term)

        def size(value: Any) -> Size:
            if not isinstance(value, torch.SymInt):
                return value  # type: ignore[no-any-return] # a number
            expression = environment.simplify(value.node.expr)
            is_open = isinstance(expression, sympy.Symbol) and expression not in fixed
            return names[expression] if is_open else int(value.node.hint)

        shown = tuple(
            tuple(size(each) for each in fake.shape) if isinstance(fake, Tensor) else size(fake) for fake in fakes
        )
        used = {name for each in shown for name in (each if isinstance(each, tuple) else (each,))}
        return Validity(shown, tuple(each for each in dict.fromkeys(conditions) if _names_in(each) <= used))


def _dims(fake: Any) -> tuple[Any, ...]:
    return tuple(fake.shape) if isinstance(fake, Tensor) else (fake,)


def _term(expression: Any, names: Mapping[sympy.Symbol, str]) -> Term | None:
    """A condition on sizes as nested tuples; None if it contains anything else."""
    if isinstance(expression, sympy.Symbol):
        return names.get(expression)
    if isinstance(expression, sympy.Integer):
        return int(expression)
    name = _OF_SYMPY.get(expression.func)
    terms = [_term(each, names) for each in expression.args]
    return None if name is None or None in terms else (name, *terms)


def _names_in(term: Term) -> set[str]:
    if isinstance(term, tuple):
        return set().union(*(_names_in(each) for each in term[1:]))
    return {term} if isinstance(term, str) else set()
