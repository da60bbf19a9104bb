"""Presets: a rule for every operation, under the names that are used in the literature.

The conventions are those of zennit's composites: one rule for convolutions, LRP-epsilon for dense layers, and
optionally a separate rule for the first layer. An operation that a preset does not mention gets the rule that
:meth:`Preset.default` returns for its family.

Those for transformers and state-space models are in ``transformer_presets.py``, and those that pass on gradients in
``gradient_presets.py``.

In every other preset, relevance passes through activations and shape operations unchanged, max pooling passes it to
the largest element of each window, averages and normalization layers follow LRP-epsilon, and recurrent layers treat
their gates as constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from torch import Tensor

from fxlrp.rules.declared import declared
from fxlrp.rules.gradient_presets import beta_smooth, deconvnet, gradient, guided_backprop
from fxlrp.rules.preset import Pair, Preset
from fxlrp.rules.selectors import FirstLayer, Selector
from fxlrp.rules.specs import AlphaBeta, Flat, Gamma, Rule, ZBox, ZPlus
from fxlrp.rules.transformer_presets import attnlrp, cplrp, mambalrp, relp

__all__ = [
    "PRESETS",
    "Preset",
    "Rules",
    "attnlrp",
    "beta_smooth",
    "cplrp",
    "deconvnet",
    "default",
    "epsilon",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
    "epsilon_plus",
    "epsilon_plus_flat",
    "excitation_backprop",
    "gradient",
    "guided_backprop",
    "mambalrp",
    "relp",
]

_CONVOLUTIONS = tuple(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))


def _preset(name: str, *, epsilon: float, convolution: Rule | None = None, first: Rule | None = None) -> Preset:
    origin = f"preset {name}"
    pairs = []
    if first is not None:
        pairs.append(Pair(FirstLayer(), first, origin))
    if convolution is not None:
        pairs.extend(Pair(operation, convolution, origin) for operation in _CONVOLUTIONS)
    return Preset(name, tuple(pairs), epsilon)


@declared
def epsilon(epsilon: float = 1e-6) -> Preset:
    """LRP-epsilon everywhere (Bach et al., 2015). ``epsilon=0`` gives LRP-0.

    - Convolutions, dense layers and the first layer: :class:`~fxlrp.rules.Epsilon`.
    - Sums: :class:`~fxlrp.rules.Epsilon`, in proportion to the operands.
    - Products: :class:`~fxlrp.rules.SignalTakeAll`.
    - Attention: :class:`~fxlrp.rules.Epsilon` for matrix products, :class:`~fxlrp.rules.Taylor` for the softmax.

    Args:
        epsilon: The stabilizer of LRP-epsilon, at least 0. 0 gives LRP-0.

    Returns:
        The preset.

    Raises:
        RuleError: ``epsilon`` is negative or not a finite number.

    Example:
        >>> import torch, fxlrp
        >>> explain = fxlrp.compile(torch.nn.Linear(4, 3).eval(), rules=fxlrp.presets.epsilon(1e-3))
        >>> [str(node.meta["fxlrp"].rule) for node in explain.nodes if "fxlrp" in node.meta]
        ['Epsilon(epsilon=0.001)']
    """
    return _preset("epsilon", epsilon=epsilon)


@declared
def epsilon_plus(epsilon: float = 1e-6) -> Preset:
    """z+ for convolutions, LRP-epsilon for dense layers (Kohlbrenner et al., 2020).

    - Convolutions, also in the first layer: :class:`~fxlrp.rules.ZPlus`.
    - Dense layers: :class:`~fxlrp.rules.Epsilon`.
    - Sums: :class:`~fxlrp.rules.Epsilon`, in proportion to the operands.
    - Products: :class:`~fxlrp.rules.SignalTakeAll`.
    - Attention: :class:`~fxlrp.rules.Epsilon` for matrix products, :class:`~fxlrp.rules.Taylor` for the softmax.

    Args:
        epsilon: The stabilizer of LRP-epsilon, at least 0.

    Returns:
        The preset.

    Raises:
        RuleError: ``epsilon`` is negative or not a finite number.

    Example:
        >>> import torch, fxlrp
        >>> layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3), torch.nn.Flatten(1), torch.nn.Linear(32, 5)]
        >>> explain = fxlrp.compile(torch.nn.Sequential(*layers).eval(), rules="epsilon_plus")
        >>> [str(node.meta["fxlrp"].rule) for node in explain.nodes if "fxlrp" in node.meta]
        ['ZPlus()', 'ZPlus()', 'PassThrough()', 'Epsilon(epsilon=1e-06)']
    """
    return _preset("epsilon_plus", epsilon=epsilon, convolution=ZPlus())


@declared
def epsilon_plus_flat(epsilon: float = 1e-6) -> Preset:
    """:func:`epsilon_plus` with the flat rule in the first layer (Kohlbrenner et al., 2020).

    - First layer, a convolution or a dense layer: :class:`~fxlrp.rules.Flat`.
    - Other convolutions: :class:`~fxlrp.rules.ZPlus`.
    - Other dense layers: :class:`~fxlrp.rules.Epsilon`.
    - Sums: :class:`~fxlrp.rules.Epsilon`, in proportion to the operands.
    - Products: :class:`~fxlrp.rules.SignalTakeAll`.
    - Attention: :class:`~fxlrp.rules.Epsilon` for matrix products, :class:`~fxlrp.rules.Taylor` for the softmax.

    Args:
        epsilon: The stabilizer of LRP-epsilon, at least 0.

    Returns:
        The preset.

    Raises:
        RuleError: ``epsilon`` is negative or not a finite number.

    Example:
        >>> import torch, fxlrp
        >>> layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3), torch.nn.Flatten(1), torch.nn.Linear(32, 5)]
        >>> explain = fxlrp.compile(torch.nn.Sequential(*layers).eval(), rules="epsilon_plus_flat")
        >>> [str(node.meta["fxlrp"].rule) for node in explain.nodes if "fxlrp" in node.meta]
        ['Flat()', 'ZPlus()', 'PassThrough()', 'Epsilon(epsilon=1e-06)']
    """
    return _preset("epsilon_plus_flat", epsilon=epsilon, convolution=ZPlus(), first=Flat())


@declared
def epsilon_gamma_box(
    low: float | Sequence[float] | Tensor,
    high: float | Sequence[float] | Tensor,
    gamma: float = 0.25,
    epsilon: float = 1e-6,
) -> Preset:
    """Gamma for convolutions, LRP-epsilon for dense layers, z^B in the first layer (Montavon et al., 2019).

    - First layer, a convolution or a dense layer: :class:`~fxlrp.rules.ZBox`.
    - Other convolutions: :class:`~fxlrp.rules.Gamma`.
    - Other dense layers: :class:`~fxlrp.rules.Epsilon`.
    - Sums: :class:`~fxlrp.rules.Epsilon`, in proportion to the operands.
    - Products: :class:`~fxlrp.rules.SignalTakeAll`.
    - Attention: :class:`~fxlrp.rules.Epsilon` for matrix products, :class:`~fxlrp.rules.Taylor` for the softmax.

    Args:
        low: The smallest value that an input can take: a number, one number for each channel, or a tensor that
            broadcasts to the input; see :class:`~fxlrp.rules.ZBox`.
        high: The largest value that an input can take, in the same form or as a number.
        gamma: The weight of the contributions that have the sign of the output, at least 0.
        epsilon: The stabilizer of LRP-epsilon, at least 0.

    Returns:
        The preset.

    Raises:
        RuleError: ``low`` or ``high`` is missing or is not a valid bound, ``low`` exceeds ``high``, or ``gamma`` or
            ``epsilon`` is negative or not a finite number.

    Example:
        >>> import fxlrp
        >>> rules = fxlrp.presets.epsilon_gamma_box(low=(-2.12, -2.04, -1.80), high=(2.25, 2.43, 2.64))
        >>> print(rules.pairs[0].rule, rules.pairs[1].rule)
        ZBox(low=(-2.12, -2.04, -1.8), high=(2.25, 2.43, 2.64)) Gamma(gamma=0.25)
    """
    return _preset("epsilon_gamma_box", epsilon=epsilon, convolution=Gamma(gamma), first=ZBox(low, high))


@declared
def epsilon_alpha2_beta1(epsilon: float = 1e-6) -> Preset:
    """alpha-2-beta-1 for convolutions, LRP-epsilon for dense layers (Lapuschkin et al., 2017).

    - Convolutions, also in the first layer: :class:`~fxlrp.rules.AlphaBeta` with ``alpha=2`` and ``beta=1``.
    - Dense layers: :class:`~fxlrp.rules.Epsilon`.
    - Sums: :class:`~fxlrp.rules.Epsilon`, in proportion to the operands.
    - Products: :class:`~fxlrp.rules.SignalTakeAll`.
    - Attention: :class:`~fxlrp.rules.Epsilon` for matrix products, :class:`~fxlrp.rules.Taylor` for the softmax.

    Args:
        epsilon: The stabilizer of LRP-epsilon, at least 0.

    Returns:
        The preset.

    Raises:
        RuleError: ``epsilon`` is negative or not a finite number.

    Example:
        >>> import torch, fxlrp
        >>> layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3), torch.nn.Flatten(1), torch.nn.Linear(32, 5)]
        >>> explain = fxlrp.compile(torch.nn.Sequential(*layers).eval(), rules="epsilon_alpha2_beta1")
        >>> [str(node.meta["fxlrp"].rule) for node in explain.nodes if "fxlrp" in node.meta]
        ['AlphaBeta(alpha=2, beta=1)', 'AlphaBeta(alpha=2, beta=1)', 'PassThrough()', 'Epsilon(epsilon=1e-06)']
    """
    return _preset("epsilon_alpha2_beta1", epsilon=epsilon, convolution=AlphaBeta())


@declared
def epsilon_alpha2_beta1_flat(epsilon: float = 1e-6) -> Preset:
    """:func:`epsilon_alpha2_beta1` with the flat rule in the first layer (Kohlbrenner et al., 2020).

    - First layer, a convolution or a dense layer: :class:`~fxlrp.rules.Flat`.
    - Other convolutions: :class:`~fxlrp.rules.AlphaBeta` with ``alpha=2`` and ``beta=1``.
    - Other dense layers: :class:`~fxlrp.rules.Epsilon`.
    - Sums: :class:`~fxlrp.rules.Epsilon`, in proportion to the operands.
    - Products: :class:`~fxlrp.rules.SignalTakeAll`.
    - Attention: :class:`~fxlrp.rules.Epsilon` for matrix products, :class:`~fxlrp.rules.Taylor` for the softmax.

    Args:
        epsilon: The stabilizer of LRP-epsilon, at least 0.

    Returns:
        The preset.

    Raises:
        RuleError: ``epsilon`` is negative or not a finite number.

    Example:
        >>> import torch, fxlrp
        >>> layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3), torch.nn.Flatten(1), torch.nn.Linear(32, 5)]
        >>> explain = fxlrp.compile(torch.nn.Sequential(*layers).eval(), rules="epsilon_alpha2_beta1_flat")
        >>> [str(node.meta["fxlrp"].rule) for node in explain.nodes if "fxlrp" in node.meta]
        ['Flat()', 'AlphaBeta(alpha=2, beta=1)', 'PassThrough()', 'Epsilon(epsilon=1e-06)']
    """
    return _preset("epsilon_alpha2_beta1_flat", epsilon=epsilon, convolution=AlphaBeta(), first=Flat())


@declared
def excitation_backprop(epsilon: float = 1e-6) -> Preset:
    """z+ for convolutions and dense layers: excitation backpropagation (Zhang et al., 2016).

    The rules are those of zennit's composite of this name.

    - Convolutions and dense layers, also in the first layer: :class:`~fxlrp.rules.ZPlus`.
    - Sums and averages: :class:`~fxlrp.rules.Epsilon`, in proportion to the operands.
    - Products: :class:`~fxlrp.rules.SignalTakeAll`.
    - Attention: :class:`~fxlrp.rules.Epsilon` for matrix products, :class:`~fxlrp.rules.Taylor` for the softmax.

    Args:
        epsilon: The stabilizer of all rules, at least 0.

    Returns:
        The preset.

    Raises:
        RuleError: ``epsilon`` is negative or not a finite number.

    Example:
        >>> import torch, fxlrp
        >>> layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(1), torch.nn.Linear(32, 5)]
        >>> explain = fxlrp.compile(torch.nn.Sequential(*layers).eval(), rules="excitation_backprop")
        >>> [str(node.meta["fxlrp"].rule) for node in explain.nodes if "fxlrp" in node.meta]
        ['ZPlus()', 'PassThrough()', 'ZPlus()']
    """
    positive = ZPlus(epsilon)
    dense = Pair("linear", positive, "preset excitation_backprop")
    convolutional = _preset("excitation_backprop", epsilon=epsilon, convolution=positive)
    return replace(convolutional, pairs=(*convolutional.pairs, dense))


@declared
def default() -> Preset:
    """The preset that ``rules=None`` selects: the rules of :func:`epsilon_plus` (Kohlbrenner et al., 2020).

    It needs no knowledge about the range of the inputs.

    - Convolutions, also in the first layer: :class:`~fxlrp.rules.ZPlus`.
    - Dense layers: :class:`~fxlrp.rules.Epsilon` with ``epsilon=1e-6``.
    - Sums: :class:`~fxlrp.rules.Epsilon`, in proportion to the operands.
    - Products: :class:`~fxlrp.rules.SignalTakeAll`. Gates are constants (Arras et al., 2019).
    - Attention: :class:`~fxlrp.rules.Epsilon` for matrix products, :class:`~fxlrp.rules.Taylor` for the softmax
      (Achtibat et al., 2024).

    Returns:
        The preset.

    Example:
        >>> import torch, fxlrp
        >>> explain = fxlrp.compile(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(1)).eval())
        >>> [str(node.meta["fxlrp"].rule) for node in explain.nodes if "fxlrp" in node.meta]
        ['ZPlus()', 'PassThrough()']
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
        excitation_backprop,
        attnlrp,
        cplrp,
        mambalrp,
        relp,
        gradient,
        guided_backprop,
        deconvnet,
        beta_smooth,
        default,
    )
}

Rules: TypeAlias = "str | Preset | Mapping[str, Any] | Sequence[tuple[Selector, Rule]] | None"
