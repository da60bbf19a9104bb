"""Which part of what a step absorbs is the bias's."""

from __future__ import annotations

from torch import Tensor, fx

from fxlrp.debugging.step_by_step import NodeFlow
from fxlrp.operation import Family
from fxlrp.relevance.numerics import stabilize
from fxlrp.rules.specs import Epsilon


def tells_shares_apart(flow: NodeFlow) -> bool:
    """Whether the share of the bias is known by the rule's formula: LRP-epsilon of linear maps."""
    return flow.operation.family is Family.LINEAR and isinstance(flow.annotation.rule, Epsilon)


def bias_of(flow: NodeFlow) -> fx.Node | None:
    """The bias in the denominator of such a step; None if there is none."""
    rule, bias = flow.annotation.rule, flow.operation.arguments(flow.node)["bias"]
    assert isinstance(rule, Epsilon)
    return bias if rule.bias and isinstance(bias, fx.Node) else None


def bias_share(flow: NodeFlow, bias: Tensor, out: Tensor, r: Tensor) -> float:
    """``sum_k b_k R_k / s(z_k)``: what of the relevance ``r`` is in proportion to the bias.

    The rest of what such a step absorbs, ``sum_k R_k (s(z_k) - z_k) / s(z_k)``, is the stabilizer's.
    """
    rule, name = flow.annotation.rule, flow.operation.name
    assert isinstance(rule, Epsilon)
    spatial = 0 if name == "linear" else int(name[-2])
    own = bias.double().reshape(-1, *(1,) * spatial)
    return float((own * (r.double() / stabilize(out.double(), rule.epsilon))).sum())
