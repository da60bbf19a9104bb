"""Rules as declarations, for users to choose from. The code that computes them is in ``fxlrp/relevance/``.

In the formulas ``x`` is an operand, ``z`` the output of the operation, ``R`` the relevance of the output and ``R_x``
that of the operand. ``x+`` and ``x-`` are the positive and negative parts of ``x``, and ``s(z)`` is ``z`` moved away
from zero by the stabilizer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from fxlrp.arguments import shown
from fxlrp.errors import RuleError
from fxlrp.rules.first_layer import Flat, WSquare, ZBox
from fxlrp.rules.gradients import Backpropagation, DeconvReLU, Gradient, GuidedReLU, SmoothReLU
from fxlrp.rules.rule import ByEpsilon, Rule, Stabilized, StabilizedWithBias, require_flag, require_number
from fxlrp.rules.stabilizers import ClippedEpsilon, RelativeEpsilon

__all__ = [
    "AlphaBeta",
    "Backpropagation",
    "ClippedEpsilon",
    "Constant",
    "Custom",
    "DeconvReLU",
    "Epsilon",
    "Equal",
    "Flat",
    "Gamma",
    "Gradient",
    "GuidedReLU",
    "Magnitude",
    "Only",
    "PassThrough",
    "RelativeEpsilon",
    "Rule",
    "Selective",
    "SignalTakeAll",
    "SmoothReLU",
    "Taylor",
    "Uniform",
    "WSquare",
    "WinnerTakesAll",
    "ZBox",
    "ZPlus",
]


@dataclass(frozen=True)
class Epsilon(ByEpsilon):
    """LRP-epsilon: relevance in proportion to each contribution (Bach et al., 2015).

    ``R_x = x * W^T(R / s(z))`` with ``z = f(W, b; x)`` and ``s(z) = z + epsilon * sgn(z)``. For linear maps, sums,
    averages, matrix products, interpolation and normalization layers. The factors of a matrix product receive equal
    parts (Achtibat et al., 2024). The elements of a max pooling window share relevance in proportion to their values.

    Args:
        epsilon: The stabilizer of the denominator, which absorbs relevance. 0 gives LRP-0, with ``0/0 = 0``. With a
            smaller one than the type has normal numbers, 6e-5 in float16, no denominator is smaller than these.
        bias: Whether the denominator includes the bias, which then absorbs its share. With ``False`` the rule conserves
            relevance, except for what the stabilizer absorbs.

    Raises:
        RuleError: ``epsilon`` is negative or not a finite number.

    Example:
        >>> import fxlrp
        >>> fxlrp.rules.Epsilon(epsilon=1e-3)
        Epsilon(epsilon=0.001, bias=True)
    """


EPSILONS = (Epsilon, ClippedEpsilon, RelativeEpsilon)
"""LRP-epsilon with each kind of stabilizer."""


@dataclass(frozen=True)
class ZPlus(StabilizedWithBias):
    """LRP-z+: only contributions that increase the output receive relevance (Montavon et al., 2017).

    ``R_x = x+ * W+^T r + x- * W-^T r`` with ``r = R / s(f(W+, b+; x+) + f(W-, 0; x-))``; inputs of both signs are
    treated as in (Montavon et al., 2019). For linear maps.

    Args:
        stabilizer: Keeps the denominator away from zero.
        bias: Whether the denominator includes the bias.

    Raises:
        RuleError: ``stabilizer`` is negative or not a finite number.

    Example:
        >>> import fxlrp
        >>> print(fxlrp.rules.ZPlus())
        ZPlus()
    """


@dataclass(frozen=True)
class AlphaBeta(Rule):
    """LRP-alpha-beta: different weights for contributions that increase and decrease the output (Bach et al., 2015).

    ``R_x = alpha * (x+ * W+^T r+ + x- * W-^T r+) - beta * (x+ * W-^T r- + x- * W+^T r-)``, where ``r+`` and ``r-`` are
    the relevance divided by the increasing and the decreasing part of the output. For linear maps.

    Args:
        alpha: The weight of the increasing contributions, at least 0.
        beta: The weight of the decreasing contributions, at least 0. ``alpha - beta`` must be 1.
        stabilizer: Keeps the denominators away from zero.
        bias: Whether the denominators include the bias.

    Raises:
        RuleError: ``alpha - beta`` is not 1, or a parameter is negative or not a finite number.

    Example:
        >>> import fxlrp
        >>> print(fxlrp.rules.AlphaBeta(alpha=2, beta=1))
        AlphaBeta(alpha=2, beta=1)
    """

    rowwise: ClassVar[bool] = True

    alpha: float = 2.0
    beta: float = 1.0
    stabilizer: float = 1e-6
    bias: bool = True

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_number(self, "alpha", "beta", "stabilizer")
        require_flag(self, "bias")
        if abs(self.alpha - self.beta - 1.0) > 1e-9:
            raise RuleError(f"AlphaBeta needs alpha - beta = 1, got alpha={self.alpha:g}, beta={self.beta:g}")


@dataclass(frozen=True)
class Gamma(Rule):
    """Generalized LRP-gamma: contributions with the sign of the output count ``1 + gamma`` times.

    ``R_x = x+ * (W1^T r1 + W2^T r2) + x- * (W2^T r1 + W1^T r2)`` with ``W1 = W + gamma * W+`` and
    ``W2 = W + gamma * W-``. Where ``z > 0``, ``r1 = R / s(f(W1, b + gamma * b+; x+) + f(W2, 0; x-))``; where ``z < 0``,
    ``r2 = R / s(f(W2, b + gamma * b-; x+) + f(W1, 0; x-))``; elsewhere both are zero. The rule is from (Montavon et
    al., 2019), and its generalization to outputs of both signs from (Andeol et al., 2021). For linear maps.

    Args:
        gamma: The additional weight, at least 0. 0 gives LRP-epsilon, except that no relevance flows where ``z = 0``.
            For large values the rule approaches z+ on positive outputs.
        stabilizer: Keeps the denominators away from zero.
        bias: Whether the denominators include the bias.
        bias_in_sign: With ``bias=False``, whether ``z``, whose sign selects the half of the rule, includes the bias all
            the same: the sign is then that of the output, as with ``zero_params="bias"`` in zennit. Otherwise it is
            that of the sum of the contributions.

    Raises:
        RuleError: ``gamma`` or ``stabilizer`` is negative or not a finite number.

    Example:
        >>> import fxlrp
        >>> print(fxlrp.rules.Gamma(0.1))
        Gamma(gamma=0.1)
    """

    rowwise: ClassVar[bool] = True

    gamma: float = 0.25
    stabilizer: float = 1e-6
    bias: bool = True
    bias_in_sign: bool = True

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_number(self, "gamma", "stabilizer")
        require_flag(self, "bias", "bias_in_sign")


@dataclass(frozen=True)
class PassThrough(Rule):
    """Relevance passes through unchanged (Bach et al., 2015).

    ``R_x = R``. For activations and shape operations; for shape operations the relevance moves with the elements. Also
    for linear maps whose input has the shape of their output; any other is an error when it is explained.
    """

    rowwise: ClassVar[bool] = True


@dataclass(frozen=True)
class Magnitude(Stabilized):
    """The operands of a sum share its relevance in proportion to their absolute values.

    ``R_a = R * |a| / s(|a| + |b|)``. For sums and differences, and for the operations ``sum`` and ``mean``, whose
    elements share the relevance in the same way. This rule is not from a publication.

    Args:
        stabilizer: Keeps the denominator away from zero.
    """


@dataclass(frozen=True)
class Equal(Rule):
    """The operands of a sum share its relevance equally.

    ``R_a = R / n``, where ``n`` is the number of operands that depend on the input. For sums and differences. This rule
    is not from a publication.
    """

    rowwise: ClassVar[bool] = True


@dataclass(frozen=True)
class Only(Rule):
    """One operand of a sum receives all relevance.

    ``R_a = R`` for the chosen operand, and 0 for the other one. For sums and differences. This rule is not from a
    publication.

    Args:
        operand: The position of the operand: 0 for the left one, 1 for the right one.

    Raises:
        RuleError: ``operand`` is neither 0 nor 1.
    """

    rowwise: ClassVar[bool] = True

    operand: int = 0

    def __post_init__(self) -> None:
        """Check the parameter."""
        if isinstance(self.operand, bool) or not isinstance(self.operand, int) or self.operand not in (0, 1):
            raise RuleError(f"Only: operand must be 0 or 1, not {self.operand!r}")


@dataclass(frozen=True)
class SignalTakeAll(Stabilized):
    """The signal of a product receives all relevance, and the gate counts as a constant (Arras et al., 2019).

    ``R_signal = R`` and ``R_gate = 0``. For products, matrix products and recurrent layers.

    The gate is the factor that is a statistic of the values, such as the ``1/sigma`` of a normalization. If there is
    none, it is the factor that results from a saturating activation: sigmoid or softmax first, then tanh and similar
    functions. If neither factor is more of a gate than the other, each receives half, as with :class:`Uniform`.

    In a matrix product the signal receives its relevance by LRP-epsilon. Of attention weights and values, the values
    are the signal (Ali et al., 2022). In a recurrent layer the gates are constants, and the parts of a state share its
    relevance by LRP-epsilon.

    Args:
        stabilizer: The stabilizer of LRP-epsilon in matrix products and recurrent layers.
    """


@dataclass(frozen=True)
class Selective(Stabilized):
    """Weights that a signal selects for itself count as constants, other factors share equally (Jafari et al., 2024).

    ``R_weight = 0`` and ``R_a = R_b = R / 2`` where there is no weight. For products and matrix products.

    A factor is such a weight if it is computed from the signal that the other factor carries, as the parameters of a
    selective state-space model are: in ``h_t = a_t * h_(t-1) + b_t * x_t`` and ``y_t = c_t * h_t``, with ``a``, ``b``
    and ``c`` computed from ``x``, all relevance of ``y`` reaches ``x`` as a signal. A factor is also a weight if it
    results from ``exp`` or ``softplus`` and the other does not, or if it is a statistic of the values.

    In a matrix product the operands that receive relevance do so by LRP-epsilon, and the result of a softmax or a
    sigmoid is a weight, too.

    Args:
        stabilizer: The stabilizer of LRP-epsilon in matrix products.
        signal: The position of the signal among the factors, for products in which the weights are computed beside the
            signal and not from it, as in Mamba 2 and linear attention. None if it is to be found as described.

    Raises:
        RuleError: ``stabilizer`` is negative or not a finite number, or ``signal`` is negative or not an integer.

    Example:
        >>> import fxlrp
        >>> rules = fxlrp.presets.mambalrp().override([("einsum", fxlrp.rules.Selective(signal=1))])
    """

    signal: int | None = None

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        wrong = isinstance(self.signal, bool) or not isinstance(self.signal, int | None)
        if wrong or (self.signal is not None and self.signal < 0):
            raise RuleError(f"Selective: signal must be the position of a factor or None, not {self.signal!r}")


@dataclass(frozen=True)
class Uniform(Rule):
    """The factors of a product share its relevance equally (Achtibat et al., 2024).

    ``R_a = R_b = R / 2``. If only one factor depends on the input, or if the other one is a statistic of the values, it
    receives all relevance. For products.
    """

    rowwise: ClassVar[bool] = True


@dataclass(frozen=True)
class WinnerTakesAll(Rule):
    """The largest element of each window receives all relevance, as in the gradient.

    ``R_x`` is the sum of ``R`` over the windows in which ``x`` is the largest element. For max pooling and maxima. This
    rule is common practice and has no publication of its own.
    """

    rowwise: ClassVar[bool] = True


@dataclass(frozen=True)
class Taylor(Stabilized):
    """A softmax by its first-order Taylor expansion (Achtibat et al., 2024).

    ``R_x = x * (R - y * sum(R))``, where ``y`` is the result. The rule does not conserve relevance: the constant term
    of the expansion absorbs the rest. For ``log_softmax`` the rule is ``R_x = x * J^T(R / s(y))``; for softmax the same
    expression gives the formula above.

    Args:
        stabilizer: Keeps the denominator for ``log_softmax`` away from zero.
    """


@dataclass(frozen=True)
class Constant(Rule):
    """The result counts as a constant: of a softmax (Ali et al., 2022), or of ``detach``.

    ``R_x = 0``: the input receives no relevance. Other operations that change nothing in eval mode, such as dropout,
    accept the rule by their name, too.
    """

    rowwise: ClassVar[bool] = True


@dataclass(frozen=True)
class Custom(Rule):
    """A user-defined rule, for any operation.

    ``R_x`` is what ``function`` returns. The rule comes from its author, not from the literature.

    Args:
        function: A pure function of torch operations. It is called with those of these values that its signature
            names: the arguments of the operation, ``out`` (the value of the operation) and ``relevance`` (the relevance
            of that value). A parameter with another name and without a default takes the next argument. The function
            returns the relevance of the operand, or a tuple if there are several operands.

    Raises:
        RuleError: ``function`` is not a function. :func:`fxlrp.compile` refuses a parameter without an argument.

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

    def __post_init__(self) -> None:
        """Check the parameter."""
        if not callable(self.function) or not hasattr(self.function, "__name__"):
            raise RuleError(f"Custom: function must be a function with a name, not {shown(self.function)}")

    def __repr__(self) -> str:
        """The rule with the name of its function: fingerprints contain it, and an address differs in every process."""
        name = getattr(self.function, "__qualname__", self.function.__name__)
        return f"Custom(function={getattr(self.function, '__module__', None)}.{name})"
