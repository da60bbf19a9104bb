"""Presets: a rule for every operation, under the names that the field uses.

Conventions are those of zennit's composites: convolutions take the strong rule, dense layers LRP-epsilon, and the
first layer may have a rule of its own. What a preset leaves open falls to :meth:`Preset.default`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, ParamSpec, TypeAlias

from fxlrp.errors import RuleError
from fxlrp.operation import Family
from fxlrp.rules.selectors import FirstLayer, Selector
from fxlrp.rules.specs import (
    AlphaBeta,
    Constant,
    Epsilon,
    Flat,
    Gamma,
    PassThrough,
    Rule,
    SignalTakeAll,
    Taylor,
    Uniform,
    WinnerTakesAll,
    ZBox,
    ZPlus,
)

_EXTENSION = "rule_for"


class Pair(NamedTuple):
    """A rule for what a selector selects."""

    selector: Selector
    rule: Rule
    origin: str

    @property
    def by_user(self) -> bool:
        """Whether the user laid the pair over a preset."""
        return self.origin.startswith("user pair")

    @property
    def by_extension(self) -> bool:
        """Whether the pair comes with an extension."""
        return self.origin == _EXTENSION


@dataclass(frozen=True)
class Preset:
    """Pairs of selector and rule; the first that matches a node and fits its operation decides.

    Args:
        name: The name under which tables show it.
        pairs: In order of precedence.
        epsilon: Of LRP-epsilon, for every operation that the pairs leave open.
    """

    name: str
    pairs: tuple[Pair, ...] = ()
    epsilon: float = 1e-6

    def override(self, pairs: Iterable[tuple[Selector, Rule]]) -> Preset:
        """This preset with ``pairs`` laid over it; the first match wins.

        Raises:
            RuleError: An item is not a ``(selector, rule)`` pair.

        Example:
            >>> import fxlrp
            >>> rules = fxlrp.presets.epsilon_plus().override([("layer4.*", fxlrp.rules.Gamma(0.25))])
        """
        known = sum(pair.by_user for pair in self.pairs)
        return replace(self, pairs=(*_user_pairs(pairs, known), *self.pairs))

    def extend(self, rules: Iterable[tuple[str, Rule]]) -> Preset:
        """This preset with rules for operations of the user's own, behind the user's pairs."""
        own = [Pair(name, rule, _EXTENSION) for name, rule in rules]
        users = [pair for pair in self.pairs if pair.by_user]
        return replace(self, pairs=(*users, *own, *self.pairs[len(users) :]))

    def default(self, family: Family) -> Rule:
        """The rule of an operation that no pair decides."""
        return _default_rules(self.epsilon)[family]


def _user_pairs(pairs: Iterable[tuple[Selector, Rule]], known: int) -> list[Pair]:
    checked = []
    for index, item in enumerate(pairs):
        if not (isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[1], Rule)):
            raise RuleError(
                f"rules[{index}] is {item!r}, not a (selector, rule) pair such as ('add', fxlrp.rules.Equal())"
            )
        checked.append(Pair(item[0], item[1], f"user pair {known + index}"))
    return checked


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
        Family.EMBEDDING: PassThrough(),
        Family.RECURRENT: SignalTakeAll(epsilon),
        Family.CHECK: PassThrough(),
    }


_CONVOLUTIONS = tuple(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))


def _preset(name: str, *, epsilon: float, convolution: Rule | None = None, first: Rule | None = None) -> Preset:
    Epsilon(epsilon)
    origin = f"preset {name}"
    pairs = []
    if first is not None:
        pairs.append(Pair(FirstLayer(), first, origin))
    if convolution is not None:
        pairs.extend(Pair(operation, convolution, origin) for operation in _CONVOLUTIONS)
    return Preset(name, tuple(pairs), epsilon)


_P = ParamSpec("_P")


def _declared(function: Callable[_P, Preset]) -> Callable[_P, Preset]:
    """Refuse unknown parameters of a preset with an error that lists the known ones."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def preset(*args: _P.args, **kwargs: _P.kwargs) -> Preset:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise RuleError(f"the preset {function.__name__}{signature}: {error}") from error
        return function(*args, **kwargs)

    return preset


@_declared
def epsilon(epsilon: float = 1e-6) -> Preset:
    """LRP-epsilon everywhere (Bach et al., 2015); ``epsilon=0`` is LRP-0."""
    return _preset("epsilon", epsilon=epsilon)


@_declared
def epsilon_plus(epsilon: float = 1e-6) -> Preset:
    """z+ for convolutions, epsilon for dense layers (Kohlbrenner et al., 2020)."""
    return _preset("epsilon_plus", epsilon=epsilon, convolution=ZPlus())


@_declared
def epsilon_plus_flat(epsilon: float = 1e-6) -> Preset:
    """:func:`epsilon_plus` with the flat rule in the first layer (Kohlbrenner et al., 2020)."""
    return _preset("epsilon_plus_flat", epsilon=epsilon, convolution=ZPlus(), first=Flat())


@_declared
def epsilon_gamma_box(
    low: float | Sequence[float], high: float | Sequence[float], gamma: float = 0.25, epsilon: float = 1e-6
) -> Preset:
    """Gamma for convolutions, epsilon for dense layers, z^B in the first layer (Montavon et al., 2019).

    Args:
        low: The smallest value an input can take, a number or one for each channel.
        high: The largest value, likewise.
        gamma: Of the gamma rule.
        epsilon: Of the epsilon rule.

    Example:
        >>> import fxlrp
        >>> rules = fxlrp.presets.epsilon_gamma_box(low=(-2.12, -2.04, -1.80), high=(2.25, 2.43, 2.64))
    """
    return _preset("epsilon_gamma_box", epsilon=epsilon, convolution=Gamma(gamma), first=ZBox(low, high))


@_declared
def epsilon_alpha2_beta1(epsilon: float = 1e-6) -> Preset:
    """alpha-2-beta-1 for convolutions, epsilon for dense layers (Lapuschkin et al., 2017)."""
    return _preset("epsilon_alpha2_beta1", epsilon=epsilon, convolution=AlphaBeta())


@_declared
def epsilon_alpha2_beta1_flat(epsilon: float = 1e-6) -> Preset:
    """:func:`epsilon_alpha2_beta1` with the flat rule in the first layer (Kohlbrenner et al., 2020)."""
    return _preset("epsilon_alpha2_beta1_flat", epsilon=epsilon, convolution=AlphaBeta(), first=Flat())


@_declared
def attnlrp(epsilon: float = 1e-6) -> Preset:
    """AttnLRP for transformers (Achtibat et al., 2024).

    LRP-epsilon for linear maps and sums, half each for the factors of a product, a softmax by its Taylor expansion,
    the statistics of normalizations constant.

    Args:
        epsilon: Of the epsilon rule.
    """
    uniform = Pair("mul", Uniform(), "preset attnlrp")
    return Preset("attnlrp", (uniform,), epsilon)


@_declared
def cplrp(epsilon: float = 1e-6) -> Preset:
    """CP-LRP for transformers: attention weights, gates and statistics are constants (Ali et al., 2022).

    Args:
        epsilon: Of the epsilon rule.
    """
    origin = "preset cplrp"
    attention = [Pair(name, Constant(), origin) for name in ("softmax", "safe_softmax")]
    products = [Pair(name, SignalTakeAll(epsilon), origin) for name in ("matmul", "einsum")]
    return Preset("cplrp", (*attention, *products), epsilon)


@_declared
def default() -> Preset:
    """The preset of ``rules=None``: as :func:`epsilon_plus`, which needs to know nothing about the input.

    Attention follows AttnLRP; gates are weights.
    """
    return _preset("default", epsilon=1e-6, convolution=ZPlus())


PRESETS: Mapping[str, Callable[..., Preset]] = {
    function.__name__: function
    for function in (
        epsilon,
        epsilon_plus,
        epsilon_plus_flat,
        epsilon_gamma_box,
        epsilon_alpha2_beta1,
        epsilon_alpha2_beta1_flat,
        attnlrp,
        cplrp,
        default,
    )
}

Rules: TypeAlias = "str | Preset | Sequence[tuple[Selector, Rule]] | None"


def resolve(rules: Rules) -> Preset:
    """The preset that the argument ``rules=`` of :func:`fxlrp.compile` means.

    Raises:
        RuleError: An unknown name, a preset that needs parameters, or a list that holds no pairs.
    """
    if rules is None:
        return default()
    if isinstance(rules, Preset):
        return rules
    if isinstance(rules, str):
        if rules not in PRESETS:
            raise RuleError(f"there is no preset {rules!r}; there are: {', '.join(PRESETS)}")
        parameters = inspect.signature(PRESETS[rules]).parameters.values()
        needed = [p.name for p in parameters if p.default is p.empty]
        if needed:
            example = ", ".join(f"{name}=..." for name in needed)
            raise RuleError(f"the preset {rules!r} needs {' and '.join(needed)}: fxlrp.presets.{rules}({example})")
        return PRESETS[rules]()
    if isinstance(rules, Rule):
        raise RuleError(f"rules={rules} is a single rule; say which nodes it is for: rules=[(selector, {rules})]")
    pairs: Any = rules
    if not isinstance(pairs, Sequence):
        raise RuleError(f"rules must be a preset's name, a preset or a list of (selector, rule) pairs, not {rules!r}")
    return default().override(pairs)
