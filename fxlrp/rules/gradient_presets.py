"""Presets that pass on derivatives: gradient times input, and gradients with a modified ReLU.

The result of a modified gradient is this gradient itself, as in zennit: relevance starts with 1 at the target, and no
step multiplies by values. A value that an operation of the model holds constant, such as the index of a lookup, has no
derivative. ``detach`` is the identity, as in every preset.
"""

from __future__ import annotations

from fxlrp.rules.declared import declared
from fxlrp.rules.preset import Pair, Preset
from fxlrp.rules.specs import Backpropagation, DeconvReLU, Gradient, GuidedReLU, Rule, SmoothReLU


@declared
def gradient() -> Preset:
    """Gradient times input: the vector-Jacobian product of every operation (Shrikumar et al., 2016).

    It covers every differentiable operation, but conserves relevance only for operations that are homogeneous of
    degree one. On networks of linear maps without bias and piecewise linear activations it equals LRP-0.

    Returns:
        The preset.

    Example:
        >>> import torch, fxlrp
        >>> explain = fxlrp.compile(torch.nn.Linear(3, 2).eval(), rules=fxlrp.presets.gradient())
        >>> explain(torch.ones(1, 3), target=0).shape
        torch.Size([1, 3])
    """
    return Preset("gradient", (Pair("*", Gradient(), "preset gradient"),))


def _modified(name: str, relu: Rule) -> Preset:
    origin = f"preset {name}"
    pairs = (Pair("*", relu, origin), Pair("*", Backpropagation(), origin))
    return Preset(name, pairs, starts_with_one=True)


@declared
def guided_backprop() -> Preset:
    """Guided backpropagation: a ReLU passes on positive gradients only (Springenberg et al., 2015).

    The result is the modified gradient, as with zennit's composite of this name, not a relevance: it starts with 1 at
    the target and is not multiplied with the input.

    - ReLU, in any spelling, such as ``x.clamp(min=0)``: :class:`~fxlrp.rules.GuidedReLU`.
    - All other operations: :class:`~fxlrp.rules.Backpropagation`, the gradient.
    - Tokens have no gradient. Theirs is the sum over the features of their vector; request the gradient at the
      embedding with ``at=``.

    Returns:
        The preset.

    Example:
        >>> import torch, fxlrp
        >>> explain = fxlrp.compile(torch.nn.Sequential(torch.nn.ReLU()).eval(), rules="guided_backprop")
        >>> explain(torch.tensor([[2.0, -1.0]]), seed=torch.tensor([[3.0, 1.0]]))
        tensor([[3., 0.]])
    """
    return _modified("guided_backprop", GuidedReLU())


@declared
def deconvnet() -> Preset:
    """Deconvolution: a ReLU passes on the positive part of the gradient (Zeiler et al., 2014).

    The result is the modified gradient, as with :func:`guided_backprop`.

    - ReLU, in any spelling, such as ``x.clamp(min=0)``: :class:`~fxlrp.rules.DeconvReLU`.
    - All other operations: :class:`~fxlrp.rules.Backpropagation`, the gradient.

    Returns:
        The preset.

    Example:
        >>> import torch, fxlrp
        >>> explain = fxlrp.compile(torch.nn.Sequential(torch.nn.ReLU()).eval(), rules="deconvnet")
        >>> explain(torch.tensor([[2.0, -1.0]]), seed=torch.tensor([[3.0, 1.0]]))
        tensor([[3., 1.]])
    """
    return _modified("deconvnet", DeconvReLU())


@declared
def beta_smooth(beta: float = 10.0) -> Preset:
    """The gradient of a softplus in place of that of each ReLU (Dombrowski et al., 2019).

    The result is the modified gradient, as with :func:`guided_backprop`. The values are those of the model with ReLU.

    - ReLU, in any spelling, such as ``x.clamp(min=0)``: :class:`~fxlrp.rules.SmoothReLU`.
    - All other operations: :class:`~fxlrp.rules.Backpropagation`, the gradient.

    Args:
        beta: The sharpness of the softplus, at least 0.

    Returns:
        The preset.

    Raises:
        RuleError: ``beta`` is negative or not a finite number.

    Example:
        >>> import torch, fxlrp
        >>> explain = fxlrp.compile(torch.nn.Sequential(torch.nn.ReLU()).eval(), rules="beta_smooth")
        >>> explain(torch.zeros(1, 2), seed=torch.tensor([[3.0, 1.0]]))
        tensor([[1.5000, 0.5000]])
    """
    return _modified("beta_smooth", SmoothReLU(beta))
