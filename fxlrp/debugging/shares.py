"""Which part of what a step absorbs is the bias's, where the formula of its rule tells.

LRP-epsilon of an affine map ``z = L x + b`` hands on ``sum_k (L x)_k R_k / s(z_k)``. So of the relevance that it
receives ``sum_k b_k R_k / s(z_k)`` is the bias's. The rest is the stabilizer's:
``sum_k R_k (s(z_k) - z_k) / s(z_k)``.
"""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor, fx

from fxlrp.debugging.step_by_step import NodeFlow
from fxlrp.operation import Family
from fxlrp.relevance.numerics import stabilize
from fxlrp.rules.specs import Epsilon

Constant: TypeAlias = "fx.Node | float"

_NORMALIZATIONS = ("layer_norm", "group_norm", "rms_norm", "local_response_norm")


def bias_of(flow: NodeFlow) -> Constant | None:
    """What is added to the linear part: a bias, or an operand of a sum that is a constant; 0 if nothing is.

    None if the rule's formula does not tell its share.
    """
    rule, operation = flow.annotation.rule, flow.operation
    if not isinstance(rule, Epsilon):
        return None
    if operation.family is Family.AVERAGE:
        return 0.0
    if operation.family is Family.SUM:
        constants = [
            each for index, each in enumerate(operation.operands_of(flow.node)) if index not in flow.annotation.carries
        ]
        return constants[0] if constants else 0.0
    if operation.family is Family.LINEAR or operation.name in _NORMALIZATIONS:
        bias = operation.arguments(flow.node).get("bias")
        return bias if rule.bias and isinstance(bias, fx.Node) else 0.0
    return None


def bias_share(flow: NodeFlow, bias: Tensor | float, out: Tensor, r: Tensor) -> float:
    """``sum_k b_k R_k / s(z_k)`` for the values of bias, output and relevance."""
    rule = flow.annotation.rule
    assert isinstance(rule, Epsilon)
    per_unit = r.double() / stabilize(out.double(), rule.epsilon)
    share = float((_like(flow, bias, out) * per_unit).sum())
    subtracted = flow.operation.name == "sub" and 1 not in flow.annotation.carries
    return -share if subtracted else share


def _like(flow: NodeFlow, bias: Tensor | float, out: Tensor) -> Tensor | float:
    """The bias in a shape that broadcasts to the output's."""
    if not isinstance(bias, Tensor):
        return bias
    name = flow.operation.name
    if name == "group_norm":
        spatial = out.dim() - 2
    elif flow.operation.family is Family.LINEAR and name != "linear":
        spatial = int(name[-2])
    else:
        return bias.double()
    return bias.double().reshape(-1, *(1,) * spatial)
