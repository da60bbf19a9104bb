"""Rules as declarations: what a user chooses. How each is computed is in ``fxlrp/relevance/``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fxlrp.errors import RuleError


@dataclass(frozen=True)
class Rule:
    """Base class of all rules: frozen, comparable, printable."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Rule:
        """Refuse unknown parameters with an error that lists the known ones."""
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
        """The rule's name with its parameters, as in ``Gamma(gamma=0.25)``; numerical floors are left out."""
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


def _require_number(rule: Rule, name: str, *, positive: bool = False) -> None:
    value = getattr(rule, name)
    if isinstance(value, float) and type(value) is not float:
        # NumPy's are floats too, but not to generated code.
        object.__setattr__(rule, name, float(value))
    if isinstance(value, bool) or not isinstance(value, int | float) or not value == value or value < 0:
        raise RuleError(f"{type(rule).__name__}: {name} must be a number of at least 0, not {value!r}")
    if positive and value == 0:
        raise RuleError(f"{type(rule).__name__}: {name} must be greater than 0")


@dataclass(frozen=True)
class Epsilon(Rule):
    """LRP-epsilon: relevance in proportion to each contribution (LRP-0 for ``epsilon=0``).

    ``R_x = x * W^T(R / s(z))`` with ``z = f(W, b; x)`` and ``s(z) = z + epsilon * sgn(z)`` (Bach et al., 2015).
    Linear maps, sums, averages, interpolation and normalization layers; on max pooling it shares within
    the window in proportion to the values.

    Args:
        epsilon: Absorbs this much of the denominator; 0 gives LRP-0, with ``0/0 = 0``.
        bias: Whether the bias stays in the denominator and absorbs its share. ``False`` makes the rule conserve.

    Raises:
        RuleError: ``epsilon`` is negative or not a number.

    Example:
        >>> import fxlrp
        >>> fxlrp.rules.Epsilon(epsilon=1e-3)
        Epsilon(epsilon=0.001, bias=True)
    """

    epsilon: float = 1e-6
    bias: bool = True

    def __post_init__(self) -> None:
        """Check the parameters."""
        _require_number(self, "epsilon")


@dataclass(frozen=True)
class _Stabilized(Rule):
    stabilizer: float = 1e-6

    def __post_init__(self) -> None:
        """Check the parameters."""
        _require_number(self, "stabilizer")


@dataclass(frozen=True)
class ZPlus(_Stabilized):
    """LRP-z+: only contributions that raise the output receive relevance.

    ``r = R / s(f(W+, b+; x+) + f(W-, 0; x-))``, ``R_x = x+ * W+^T r + x- * W-^T r`` (Montavon et al., 2017;
    for inputs of both signs as in Montavon et al., 2019). Linear maps.

    Args:
        stabilizer: Keeps the denominator away from zero.
        bias: Whether the bias stays in the denominator.

    Example:
        >>> import fxlrp
        >>> print(fxlrp.rules.ZPlus())
        ZPlus()
    """

    bias: bool = True


@dataclass(frozen=True)
class AlphaBeta(Rule):
    """LRP-alpha-beta: raising contributions receive ``alpha``, lowering ones ``-beta`` of the relevance.

    ``R_x = alpha * (x+ * W+^T r+ + x- * W-^T r+) - beta * (x+ * W-^T r- + x- * W+^T r-)`` where ``r+`` and ``r-``
    are the relevance over the raising and the lowering part of the output (Bach et al., 2015). Linear maps.

    Args:
        alpha: Weight of the raising contributions.
        beta: Weight of the lowering contributions; ``alpha - beta`` must be 1.
        stabilizer: Keeps the denominators away from zero.
        bias: Whether the bias stays in the denominators.

    Raises:
        RuleError: ``alpha - beta`` is not 1, or one of them is negative.

    Example:
        >>> import fxlrp
        >>> print(fxlrp.rules.AlphaBeta(alpha=2, beta=1))
        AlphaBeta(alpha=2, beta=1)
    """

    alpha: float = 2.0
    beta: float = 1.0
    stabilizer: float = 1e-6
    bias: bool = True

    def __post_init__(self) -> None:
        """Check the parameters."""
        for name in ("alpha", "beta", "stabilizer"):
            _require_number(self, name)
        if abs(self.alpha - self.beta - 1.0) > 1e-9:
            raise RuleError(f"AlphaBeta needs alpha - beta = 1, got alpha={self.alpha:g}, beta={self.beta:g}")


@dataclass(frozen=True)
class Gamma(Rule):
    """Generalised LRP-gamma: contributions of the output's own sign count ``1 + gamma`` times.

    For ``z > 0`` the denominator is ``f(W + g W+, b + g b+; x+) + f(W + g W-, 0; x-)``, for ``z < 0`` it is
    ``f(W + g W-, b + g b-; x+) + f(W + g W+, 0; x-)``; where ``z = 0`` nothing flows (Montavon et al., 2019;
    generalised to both signs by Andeol et al., 2021). Linear maps.

    Args:
        gamma: 0 gives LRP-epsilon, large values approach z+ on positive outputs.
        stabilizer: Keeps the denominators away from zero.
        bias: Whether the bias stays in the denominators.

    Example:
        >>> import fxlrp
        >>> print(fxlrp.rules.Gamma(0.1))
        Gamma(gamma=0.1)
    """

    gamma: float = 0.25
    stabilizer: float = 1e-6
    bias: bool = True

    def __post_init__(self) -> None:
        """Check the parameters."""
        for name in ("gamma", "stabilizer"):
            _require_number(self, name)


@dataclass(frozen=True)
class ZBox(Rule):
    """LRP-z^B for inputs confined to a box, such as pixels.

    ``r = R / s(f(W; x) - f(W+; low) - f(W-; high))``,
    ``R_x = x * W^T r - low * W+^T r - high * W-^T r`` (Montavon et al., 2017). First linear map.

    Args:
        low: The smallest value an input can take: a number, or one number for each channel (dimension 1).
        high: The largest value, likewise.
        stabilizer: Keeps the denominator away from zero.

    Raises:
        RuleError: A bound is not a number or a flat sequence of numbers, or ``low`` exceeds ``high``.

    Example:
        >>> import fxlrp
        >>> print(fxlrp.rules.ZBox(low=(-2.1, -2.0, -1.8), high=(2.2, 2.4, 2.6)))
        ZBox(low=(-2.1, -2, -1.8), high=(2.2, 2.4, 2.6))
    """

    low: float | Sequence[float]
    high: float | Sequence[float]
    stabilizer: float = 1e-6

    def __post_init__(self) -> None:
        """Check the bounds and turn arrays and tensors into tuples of numbers."""
        _require_number(self, "stabilizer")
        bounds = {name: self._bound(name) for name in ("low", "high")}
        for name, bound in bounds.items():
            object.__setattr__(self, name, bound)
        lows, highs = (bound if isinstance(bound, tuple) else (bound,) for bound in bounds.values())
        channels = max(len(lows), len(highs))
        if {len(lows), len(highs)} - {1, channels}:
            raise RuleError(f"ZBox: low has {len(lows)} channels and high has {len(highs)}")
        lows, highs = (each * (channels // len(each)) for each in (lows, highs))
        if any(low > high for low, high in zip(lows, highs, strict=True)):
            raise RuleError(f"ZBox: low={bounds['low']} exceeds high={bounds['high']}")

    def _bound(self, name: str) -> float | tuple[float, ...]:
        value: Any = getattr(self, name)
        if hasattr(value, "tolist"):
            value = value.flatten().tolist()
        if isinstance(value, list | tuple):
            if not value or not all(isinstance(item, int | float) for item in value):
                raise RuleError(f"ZBox: {name} must be a number or one number for each channel, not {value!r}")
            return tuple(float(item) for item in value) if len(value) > 1 else float(value[0])
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RuleError(f"ZBox: {name} must be a number or one number for each channel, not {value!r}")
        return float(value)


@dataclass(frozen=True)
class WSquare(_Stabilized):
    """LRP-w^2: relevance in proportion to the squared weights, whatever the input.

    ``R_x = (W^2)^T (R / s(f(W^2, b^2; 1)))`` (Montavon et al., 2017). First linear map.

    Args:
        stabilizer: Keeps the denominator away from zero.
        bias: Whether the bias stays in the denominator.
    """

    bias: bool = True


@dataclass(frozen=True)
class Flat(_Stabilized):
    """LRP-flat: relevance spread evenly over the receptive field.

    ``R_x = 1^T (R / s(f(1, 0; 1)))`` (Lapuschkin et al., 2019). First linear map.

    Args:
        stabilizer: Keeps the denominator away from zero.
    """


@dataclass(frozen=True)
class PassThrough(Rule):
    """Relevance passes unchanged: activations; for shape operations it follows the elements."""


@dataclass(frozen=True)
class Magnitude(_Stabilized):
    """A sum shared by magnitude: ``R_a = R |a| / (|a| + |b|)``.

    Args:
        stabilizer: Keeps the denominator away from zero.
    """


@dataclass(frozen=True)
class Equal(Rule):
    """A sum shared equally among the operands that depend on the input."""


@dataclass(frozen=True)
class Only(Rule):
    """A sum that gives all its relevance to one operand.

    Args:
        operand: The operand's position: 0 is the left one.

    Raises:
        RuleError: ``operand`` is neither 0 nor 1.
    """

    operand: int = 0

    def __post_init__(self) -> None:
        """Check the parameter."""
        if self.operand not in (0, 1):
            raise RuleError(f"Only: operand must be 0 or 1, not {self.operand!r}")


@dataclass(frozen=True)
class SignalTakeAll(_Stabilized):
    """A product that gives all its relevance to the signal; the gate is a weight (Arras et al., 2019).

    The gate is the factor that is a statistic of the values (the ``1/sigma`` of a normalization), else the one that
    comes out of a saturating activation (sigmoid, softmax, then tanh and the like). Where neither factor is more of a
    gate than the other, each takes half, as with :class:`Uniform`. In a matrix product the signal takes its relevance
    by LRP-epsilon: of attention weights and values the values take all (Ali et al., 2022). In recurrent layers the
    gates are weights, and a state shares its relevance by LRP-epsilon.

    Args:
        stabilizer: The epsilon of matrix products and recurrent layers.
    """


@dataclass(frozen=True)
class Uniform(Rule):
    """A product that gives half its relevance to each factor, but none to a statistic (Achtibat et al., 2024)."""


@dataclass(frozen=True)
class WinnerTakesAll(Rule):
    """Max pooling: the largest element of each window takes all, as in the gradient."""


@dataclass(frozen=True)
class Taylor(_Stabilized):
    """A softmax by its first-order Taylor expansion: ``R_x = x * (R - y * sum(R))`` (Achtibat et al., 2024).

    It does not conserve: the constant term of the expansion absorbs the rest. ``log_softmax`` alike, by
    ``R_x = x * J^T(R / s(y))``, which for softmax is the formula above.

    Args:
        stabilizer: Keeps the denominator of ``log_softmax`` away from zero.
    """


@dataclass(frozen=True)
class Constant(Rule):
    """The result of a softmax counts as a constant: its input receives no relevance (Ali et al., 2022)."""


@dataclass(frozen=True)
class Custom(Rule):
    """A rule of one's own, for any operation.

    Args:
        function: Called with the operation's arguments and the keywords ``out`` (the operation's value) and
            ``relevance`` (the value's relevance); returns the relevance of the operand, or a tuple for several.
            A pure function over torch operations.

    Example:
        >>> import torch, fxlrp
        >>> def all_of_it(x, weight, bias=None, *, out, relevance):
        ...     return x * ((relevance / (out + 1e-6)) @ weight)
        >>> layer = torch.nn.Linear(3, 2).eval()
        >>> explain = fxlrp.compile(layer, rules=[("linear", fxlrp.rules.Custom(all_of_it))])
        >>> explain(torch.ones(1, 3), target=0).shape
        torch.Size([1, 3])
    """

    function: Callable[..., Any]
