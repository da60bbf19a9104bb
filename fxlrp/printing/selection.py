"""Which nodes of the annotated graph a table shows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from fxlrp.absence import why_absent
from fxlrp.arguments import shown
from fxlrp.errors import InputError
from fxlrp.integers import is_integer
from fxlrp.places import Places
from fxlrp.printing.rows import View, constants_among
from fxlrp.program import Program
from fxlrp.question import At, Question


def view_of(
    program: Program,
    nodes: Sequence[fx.Node],
    *,
    only: At,
    relevance: bool | None,
    hide: str | Sequence[str],
    width: int | None,
    fold: bool | None,
    constants: bool,
) -> View:
    """Return what the arguments of a table mean.

    Args:
        program: The annotated program, to which no relevance has been added.
        nodes: The nodes of the table.
        only: The names of inputs, modules, nodes or parameters to show, and patterns; None for all.
        relevance: As for :class:`View`.
        hide: As for :class:`View`.
        width: As for :class:`View`.
        fold: As for :class:`View`.
        constants: As for :class:`View`.

    Raises:
        InputError: An argument is of another type, a name means nothing, or it means nothing but constants.
    """
    for name, value in {"relevance": relevance, "fold": fold}.items():
        if value is not None and not isinstance(value, bool):
            raise InputError(f"{name} must be True, False or None, not {shown(value)}")
    if not isinstance(constants, bool):
        raise InputError(f"constants must be True or False, not {shown(constants)}")
    if width is not None and (not is_integer(width) or width < 1):
        raise InputError(f"width must be a number of characters, or None, not {shown(width)}")
    hidden = _hidden(hide)
    view = View(None, frozenset(), relevance, hidden, width, fold, constants)
    if only is None:
        return view
    chosen, named = _chosen(program, nodes, _names(only), constants)
    return View(chosen, named, relevance, hidden, width, fold, constants)


def _hidden(hide: str | Sequence[str]) -> tuple[str, ...]:
    names = (hide,) if isinstance(hide, str) else hide
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise InputError(f"hide must be a name, or a list of names, not {shown(hide)}")
    return tuple(names)


def _names(only: At) -> tuple[str, ...]:
    try:
        return Question.of(only).at
    except InputError as error:
        raise InputError(str(error).replace("at must", "only must", 1)) from error


def _chosen(
    program: Program, nodes: Sequence[fx.Node], only: Sequence[str], constants: bool
) -> tuple[frozenset[fx.Node], frozenset[fx.Node]]:
    places, without_rows = Places(program, nodes), frozenset() if constants else constants_among(nodes)
    chosen: set[fx.Node] = set()
    named: set[fx.Node] = set()
    for name in only:
        found, alone = places.inside("only", name), places.alone(name)
        if not alone and without_rows.issuperset(found):
            removed = name in program.facts.removed
            why = why_absent(program, name) if removed else "it means only constants, which table(constants=True) shows"
            raise InputError(f"only={name!r}: {why}")
        chosen.update(found)
        named.update(alone)
    return frozenset(chosen), frozenset(named)
