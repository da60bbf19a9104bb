"""Relevance of operations that change nothing, which stay in the graph only where their result is a constant."""

from __future__ import annotations

from fxlrp.relevance.step import Choice, Contributions, Implementation, Receivers, RuleTable, Step
from fxlrp.rules.specs import Constant


def constant(reason: str) -> Implementation:
    """A step that passes on nothing.

    Args:
        reason: Why, for the table.
    """

    def none(choice: Choice) -> Receivers:
        return Receivers((), reason)

    return Implementation(_emit_nothing, none)


def _emit_nothing(step: Step) -> Contributions:
    return [None]


RULES: RuleTable = {Constant: constant("a constant")}
