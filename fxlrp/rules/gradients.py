"""The rules that pass on derivatives: of the operation itself, or modified ones for ReLU.

``specs.py`` explains the notation. In these formulas ``R`` may be any quantity: they do not multiply by values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxlrp.rules.rule import Rule, require_number


@dataclass(frozen=True)
class Gradient(Rule):
    """The vector-Jacobian product of the operation itself, for every differentiable operation.

    ``R_x = x * J^T(R / y)``, where ``J`` is the Jacobian of the result ``y`` at the operands, and ``0/0 = 0``. Applied
    to every operation it gives gradient times input (:func:`~fxlrp.presets.gradient`), except that nothing passes
    through an inner value that is exactly zero: coefficients do. It conserves relevance only for operations that are
    homogeneous of degree one. The step is derived by tracing, for which sizes must be known: without
    ``example_inputs`` the model is compiled at the first call.

    Example:
        >>> import torch, fxlrp
        >>> class Net(torch.nn.Module):
        ...     def forward(self, x):
        ...         return torch.linalg.det(x).unsqueeze(1)
        >>> explain = fxlrp.compile(Net().eval(), rules=[("linalg_det", fxlrp.rules.Gradient())])
        >>> explain(torch.eye(3).expand(2, 3, 3), target=0).sum((1, 2))
        tensor([3., 3.])
    """

    rowwise: ClassVar[bool] = True
    differentiates: ClassVar[bool] = True


@dataclass(frozen=True)
class Backpropagation(Rule):
    """What arrives passes on as a gradient does in backpropagation (Rumelhart et al., 1986).

    ``R_x = J^T R``, where ``J`` is the Jacobian of the result at the operands, for every differentiable operation.
    Unlike :class:`Gradient` it does not multiply by values. Presets such as :func:`~fxlrp.presets.guided_backprop`
    apply it to all operations but ReLU. The steps of operations that are not linear are derived by tracing, as those of
    :class:`Gradient`.
    """

    rowwise: ClassVar[bool] = True
    differentiates: ClassVar[bool] = True


@dataclass(frozen=True)
class GuidedReLU(Rule):
    """Guided backpropagation: a ReLU passes on positive gradients only (Springenberg et al., 2015).

    ``R_x = R`` where ``x > 0`` and ``R > 0``, and 0 elsewhere. For ReLU in any spelling, such as ``clamp(min=0)``.
    Other calls of ``clamp`` and ``threshold`` pass on what :class:`Backpropagation` does.
    """

    rowwise: ClassVar[bool] = True


@dataclass(frozen=True)
class DeconvReLU(Rule):
    """Deconvolution: a ReLU passes on the positive part of the gradient, wherever it was active (Zeiler et al., 2014).

    ``R_x = max(R, 0)``. For ReLU in any spelling, as :class:`GuidedReLU`.
    """

    rowwise: ClassVar[bool] = True


@dataclass(frozen=True)
class SmoothReLU(Rule):
    """The gradient of a softplus in place of that of a ReLU (Dombrowski et al., 2019).

    ``R_x = sigmoid(beta * x) * R``, where ``x`` is the value that the model with ReLU computes. For ReLU in any
    spelling, as :class:`GuidedReLU`.

    Args:
        beta: The sharpness of the softplus, at least 0. For large values it approaches a ReLU.

    Raises:
        RuleError: ``beta`` is negative or not a finite number.
    """

    rowwise: ClassVar[bool] = True

    beta: float = 10.0

    def __post_init__(self) -> None:
        """Check the parameter."""
        require_number(self, "beta")
