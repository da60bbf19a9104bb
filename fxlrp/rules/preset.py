"""A preset: selectors with their rules, and a rule for every family of operations."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor, nn

from fxlrp.arguments import flag, shown
from fxlrp.errors import RuleError
from fxlrp.operation import Family
from fxlrp.rules.rule import Rule
from fxlrp.rules.selectors import Selector, located
from fxlrp.rules.specs import Epsilon, PassThrough, SignalTakeAll, Taylor, WinnerTakesAll

_EXTENSION = "rule_for"
_USER = re.compile(r"user pair (\d+)")


class Pair(NamedTuple):
    """A selector, and the rule for the nodes that it matches."""

    selector: Selector
    rule: Rule
    origin: str

    @property
    def number(self) -> int | None:
        """The number of a pair that the user placed in front of a preset, in the order in which these were given."""
        found = _USER.fullmatch(self.origin)
        return None if found is None else int(found[1])

    @property
    def by_user(self) -> bool:
        """Whether the user placed the pair in front of a preset."""
        return self.number is not None

    @property
    def by_extension(self) -> bool:
        """Whether the pair belongs to an extension."""
        return self.origin == _EXTENSION


@dataclass(frozen=True)
class Preset:
    """A list of selector and rule pairs. A node gets the rule of the first pair that matches it and fits its operation.

    Args:
        name: The name that tables show.
        pairs: The pairs, in order of precedence.
        epsilon: The stabilizer of LRP-epsilon for operations that no pair matches.
        starts_with_one: Whether an explanation starts with 1 at the target, as a gradient does, and not with the value
            of the output.
    """

    name: str
    pairs: tuple[Pair, ...] = ()
    epsilon: float = 1e-6
    starts_with_one: bool = False

    def __post_init__(self) -> None:
        """Check the parameters."""
        if not isinstance(self.name, str):
            raise RuleError(f"the name of a preset must be a string, not {shown(self.name)}")
        if not isinstance(self.pairs, tuple) or not all(isinstance(pair, Pair) for pair in self.pairs):
            raise RuleError(
                f"the pairs of a preset must be a tuple of Pair, not {shown(self.pairs)}: "
                "preset.override([(selector, rule)]) adds pairs to a preset"
            )
        flag("starts_with_one", self.starts_with_one, RuleError)
        object.__setattr__(self, "epsilon", Epsilon(self.epsilon).epsilon)

    def override(self, pairs: Iterable[tuple[Selector, Rule]]) -> Preset:
        """Return this preset with ``pairs`` in front of its own. The first match wins.

        Args:
            pairs: The ``(selector, rule)`` pairs, in order of precedence.

        Returns:
            A new preset. This one is not changed.

        Raises:
            RuleError: An item is not a ``(selector, rule)`` pair.

        Example:
            >>> import fxlrp
            >>> rules = fxlrp.presets.epsilon_plus().override([("layer4.*", fxlrp.rules.Gamma(0.25))])
        """
        known = sum(pair.by_user for pair in self.pairs)
        return replace(self, pairs=(*_user_pairs(pairs, known), *self.pairs))

    def located(self, model: nn.Module | None) -> Preset:
        """Return this preset with the paths of modules in ``model`` in place of the modules themselves."""
        return replace(self, pairs=tuple(pair._replace(selector=located(pair.selector, model)) for pair in self.pairs))

    def extend(self, rules: Iterable[tuple[str, Rule]]) -> Preset:
        """Return this preset with rules for user-defined operations, placed after the user's pairs."""
        own = [Pair(name, rule, _EXTENSION) for name, rule in rules]
        users = [pair for pair in self.pairs if pair.by_user]
        return replace(self, pairs=(*users, *own, *self.pairs[len(users) :]))

    def default(self, family: Family) -> Rule | None:
        """The rule of an operation that no pair matches; None for a family without a rule in the literature."""
        return _default_rules(self.epsilon).get(family)


def _user_pairs(pairs: Iterable[tuple[Selector, Rule]], known: int) -> list[Pair]:
    if not isinstance(pairs, Iterable) or isinstance(pairs, str | Mapping | Tensor):
        raise RuleError(f"rules must be a list of (selector, rule) pairs, not {shown(pairs)}")
    checked = []
    for index, item in enumerate(pairs):
        if (
            isinstance(item, list | tuple)
            and len(item) == 2
            and isinstance(item[1], type)
            and issubclass(item[1], Rule)
        ):
            name = item[1].__name__
            raise RuleError(f"rules[{index}] has the class {name} as its rule: call it, as in fxlrp.rules.{name}(...)")
        if isinstance(item, list | tuple) and len(item) == 2 and not isinstance(item[1], Rule):
            hint = "Custom(function)" if callable(item[1]) else "Gamma(0.25)"
            raise RuleError(f"rules[{index}] has {shown(item[1])} in place of a rule such as fxlrp.rules.{hint}")
        if not (isinstance(item, list | tuple) and len(item) == 2):
            raise RuleError(
                f"rules[{index}] is {shown(item)}, not a (selector, rule) pair such as ('add', fxlrp.rules.Equal())"
            )
        checked.append(Pair(item[0], item[1], f"user pair {known + index}"))
    return checked


@functools.cache
def _default_rules(epsilon: float) -> Mapping[Family, Rule]:
    return {
        Family.LINEAR: Epsilon(epsilon),
        Family.SUM: Epsilon(epsilon),
        Family.PRODUCT: SignalTakeAll(),
        Family.MATMUL: Epsilon(epsilon),
        Family.ACTIVATION: PassThrough(),
        Family.MAX_POOL: WinnerTakesAll(),
        Family.AVERAGE: Epsilon(epsilon),
        Family.NORMALIZATION: Epsilon(epsilon),
        Family.SHAPE: PassThrough(),
        Family.SOFTMAX: Taylor(epsilon),
        Family.MASK: Epsilon(epsilon),
        Family.ATTENTION: Epsilon(epsilon),
        Family.EMBEDDING: PassThrough(),
        Family.RECURRENT: SignalTakeAll(epsilon),
        Family.CHECK: PassThrough(),
        Family.TRANSFORM: Epsilon(epsilon),
        Family.SELECTION: PassThrough(),
        Family.FUNCTION: Epsilon(epsilon),
    }
