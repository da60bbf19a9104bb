"""Presets for transformers and state-space models."""

from __future__ import annotations

from fxlrp.rules.declared import declared
from fxlrp.rules.preset import Pair, Preset
from fxlrp.rules.specs import Constant, Gradient, Selective, SignalTakeAll, Uniform


@declared
def attnlrp(epsilon: float = 1e-6) -> Preset:
    """AttnLRP for transformers (Achtibat et al., 2024).

    - Convolutions, dense layers and the first layer: :class:`~fxlrp.rules.Epsilon`.
    - Sums: :class:`~fxlrp.rules.Epsilon`, in proportion to the operands.
    - Products: :class:`~fxlrp.rules.Uniform`, half to each factor. The statistics of normalizations are constants.
    - Attention: :class:`~fxlrp.rules.Epsilon` for matrix products, half to each factor, and
      :class:`~fxlrp.rules.Taylor` for the softmax.

    Args:
        epsilon: The stabilizer of LRP-epsilon, at least 0.

    Returns:
        The preset.

    Raises:
        RuleError: ``epsilon`` is negative or not a finite number.

    Example:
        >>> import torch, fxlrp
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        >>> x = torch.rand(2, 5, 8)
        >>> explain = fxlrp.compile(layer, rules=fxlrp.presets.attnlrp(), example_inputs=x)
        >>> explain(x, target=(0, 3)).shape
        torch.Size([2, 5, 8])
    """
    uniform = Pair("mul", Uniform(), "preset attnlrp")
    return Preset("attnlrp", (uniform,), epsilon)


@declared
def cplrp(epsilon: float = 1e-6) -> Preset:
    """CP-LRP for transformers: attention weights, gates and statistics are constants (Ali et al., 2022).

    - Convolutions, dense layers and the first layer: :class:`~fxlrp.rules.Epsilon`.
    - Sums: :class:`~fxlrp.rules.Epsilon`, in proportion to the operands.
    - Products: :class:`~fxlrp.rules.SignalTakeAll`.
    - Attention: :class:`~fxlrp.rules.SignalTakeAll` for matrix products, so that the values receive all relevance of
      attention weights times values, and :class:`~fxlrp.rules.Constant` for the softmax. No relevance reaches queries
      and keys.

    Args:
        epsilon: The stabilizer of LRP-epsilon, at least 0.

    Returns:
        The preset.

    Raises:
        RuleError: ``epsilon`` is negative or not a finite number.

    Example:
        >>> import torch, fxlrp
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        >>> x = torch.rand(2, 5, 8)
        >>> explain = fxlrp.compile(layer, rules=fxlrp.presets.cplrp(), example_inputs=x)
        >>> explain(x, target=(0, 3)).shape
        torch.Size([2, 5, 8])
    """
    origin = "preset cplrp"
    attention = [Pair(name, Constant(), origin) for name in ("softmax", "safe_softmax")]
    products = [Pair(name, SignalTakeAll(epsilon), origin) for name in ("matmul", "einsum")]
    return Preset("cplrp", (*attention, *products), epsilon)


@declared
def mambalrp(epsilon: float = 1e-6) -> Preset:
    """MambaLRP for state-space models: the parameters of the scan are constants (Jafari et al., 2024).

    - Convolutions, dense layers and the first layer: :class:`~fxlrp.rules.Epsilon`.
    - Sums: :class:`~fxlrp.rules.Epsilon`, in proportion to the operands.
    - Products: :class:`~fxlrp.rules.Selective`. The time steps and the matrices of a selective scan are constants, and
      gates receive half. The statistics of normalizations are constants.
    - Attention, in models that have both: :class:`~fxlrp.rules.Selective` for matrix products and
      :class:`~fxlrp.rules.Constant` for the softmax, so that attention weights are constants, too.

    Args:
        epsilon: The stabilizer of LRP-epsilon, at least 0.

    Returns:
        The preset.

    Raises:
        RuleError: ``epsilon`` is negative or not a finite number.

    Example:
        >>> import torch, fxlrp
        >>> class Decay(torch.nn.Module):
        ...     def forward(self, x):
        ...         return x * torch.exp(-x.mean(1, keepdim=True))
        >>> explain = fxlrp.compile(Decay().eval(), rules="mambalrp")
        >>> [str(node.meta["fxlrp"].rule) for node in explain.nodes if "fxlrp" in node.meta]
        ['Selective()']
    """
    origin = "preset mambalrp"
    attention = [Pair(name, Constant(), origin) for name in ("softmax", "safe_softmax")]
    products = [Pair(name, Selective(epsilon), origin) for name in ("mul", "matmul", "einsum")]
    return Preset("mambalrp", (*attention, *products), epsilon)


@declared
def relp() -> Preset:
    """RelP for language models: relevance patching (Jafari et al., 2025).

    - Convolutions, dense layers, sums and averages: :class:`~fxlrp.rules.Epsilon` with ``epsilon=0``, LRP-0.
    - Activations: :class:`~fxlrp.rules.PassThrough`. The statistics of normalizations are constants.
    - Products: :class:`~fxlrp.rules.Uniform`, half to each factor.
    - Attention: its derivative, :class:`~fxlrp.rules.Gradient` for both matrix products, without halves, and
      :class:`~fxlrp.rules.Taylor` for the softmax, which is its derivative. So attention does not conserve relevance.

    Relevance is value times coefficient, and patching a value changes the output by about its change times the
    coefficient.

    Returns:
        The preset.

    Example:
        >>> import torch, fxlrp
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        >>> x = torch.rand(2, 5, 8)
        >>> explain = fxlrp.compile(layer, rules="relp", example_inputs=x)
        >>> explain(x, target=(0, 3)).shape
        torch.Size([2, 5, 8])
    """
    origin = "preset relp"
    products = [Pair(name, Gradient(), origin) for name in ("matmul", "einsum")]
    return Preset("relp", (Pair("mul", Uniform(), origin), *products), 0.0)
