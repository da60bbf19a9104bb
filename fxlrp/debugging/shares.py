"""The share of the bias in the relevance that a step absorbs, where the formula of its rule determines it.

LRP-epsilon of an affine map ``z = L x + b`` passes on ``sum_k (L x)_k R_k / s(z_k)``. So of the relevance that the
step receives, the bias absorbs ``sum_k b_k R_k / s(z_k)``, and the stabilizer absorbs the rest:
``sum_k R_k (s(z_k) - z_k) / s(z_k)``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from fxlrp.debugging.step_by_step import NodeFlow
from fxlrp.relevance import implementation
from fxlrp.relevance.numerics import stabilize
from fxlrp.relevance.step import Absorber
from fxlrp.rules.specs import Epsilon

Constant: TypeAlias = "fx.Node | float"


def bias_of(flow: NodeFlow) -> Constant | None:
    """Return the constant that is added to the linear part: a bias, or a constant operand of a sum.

    Args:
        flow: The node and its step.

    Returns:
        The constant; 0 if nothing is added, None if the formula of the rule does not determine its share.
    """
    operation, rule = flow.operation, flow.annotation.rule
    how = implementation(operation, rule)
    if how is None or not isinstance(rule, Epsilon) or how.absorber is None:
        return None
    added: list[Any] = []
    if how.absorber is Absorber.BIAS and rule.bias:
        added = [operation.arguments(flow.node)["bias"]]
    elif how.absorber is Absorber.OPERANDS:
        operands = enumerate(operation.operands_of(flow.node))
        added = [each for position, each in operands if position not in flow.annotation.carries]
    return next((each for each in added if each is not None), 0.0)


def at_zeros(out: Tensor, r: Tensor) -> float:
    """Return the relevance of the elements that are exactly zero: none of it can be passed on in proportion.

    Args:
        out: The value ``z`` of a node for which :func:`bias_of` is known.
        r: Its relevance, in the shape of ``out``.
    """
    if out.is_complex():
        # The real part and the imaginary part have their own relevance.
        out, r = torch.view_as_real(out.resolve_conj()), torch.view_as_real(r.resolve_conj())
    return float(r.double().masked_fill(out != 0, 0.0).sum())


def bias_share(flow: NodeFlow, bias: Tensor | float, out: Tensor, r: Tensor) -> float:
    """Return ``sum_k b_k R_k / s(z_k)``.

    Args:
        flow: The node and its step.
        bias: The constant ``b`` that :func:`bias_of` returned.
        out: The value ``z`` of the node.
        r: Its relevance ``R``, in the shape of ``out``.
    """
    rule = flow.annotation.rule
    assert isinstance(rule, Epsilon)
    per_unit = r.double() / stabilize(out, rule.epsilon).double()
    share = float((_like(flow, bias, out) * per_unit).sum())
    subtracted = flow.operation.name == "sub" and 1 not in flow.annotation.carries
    return -share if subtracted else share


def _like(flow: NodeFlow, bias: Tensor | float, out: Tensor) -> Tensor | float:
    """Return the bias in a shape that broadcasts to the shape of the output."""
    if not isinstance(bias, Tensor):
        return bias
    spatial = out.dim() - 2 if flow.operation.name == "group_norm" else flow.operation.dims
    return bias.double().reshape(-1, *(1,) * spatial) if spatial else bias.double()
