"""Relevance of softmax: by its first-order Taylor expansion, or none at all."""

from __future__ import annotations

from torch import Tensor, fx

from fxlrp.attention import blocks
from fxlrp.relevance.identity import constant
from fxlrp.relevance.numerics import stabilize
from fxlrp.relevance.proportional import backpropagated
from fxlrp.relevance.step import Contributions, Implementation, RuleTable, Step
from fxlrp.rules.specs import Backpropagation, Constant, Taylor


def softmax_taylor(x: Tensor, out: Tensor, r: Tensor, *, dim: int) -> Tensor:
    """``R_x = x * (R - y * sum(R))`` along ``dim``; masked positions, at minus infinity, get none."""
    return x.masked_fill(x.isinf(), 0.0) * (r - out * r.sum(dim, keepdim=True))


def log_softmax_taylor(x: Tensor, out: Tensor, r: Tensor, *, dim: int, epsilon: float) -> Tensor:
    """``R_x = x * (c - exp(y) * sum(c))`` with ``c = R / s(y)``, along ``dim``: ``x * J^T c`` as for softmax."""
    r = r / stabilize(out, epsilon)
    return x.masked_fill(x.isinf(), 0.0) * (r - out.exp() * r.sum(dim, keepdim=True))


def _emit_softmax(step: Step) -> Contributions:
    return [step.call(softmax_taylor, step.operands[0], step.node, step.relevance, dim=step.arguments["dim"])]


def _emit_log_softmax(step: Step) -> Contributions:
    assert isinstance(step.rule, Taylor)
    options = {"dim": step.arguments["dim"], "epsilon": step.rule.stabilizer}
    return [step.call(log_softmax_taylor, step.operands[0], step.node, step.relevance, **options)]


def softmax_transposed(factor: Tensor, out: Tensor, *, dim: int) -> Tensor:
    """``C_x = y * (C - sum(y C))`` along ``dim``, for relevance ``R = y * C``."""
    return blocks.softmax_transposed(factor, out, dim)


def _specialize_softmax(step: Step) -> Contributions | None:
    (x,) = step.operands
    is_quotient = step.facts.quotients and step.single.base is step.node
    if not is_quotient or not isinstance(x, fx.Node):
        return None
    return [step.times(x, step.call(softmax_transposed, step.single.factor, step.node, dim=step.arguments["dim"]))]


def _softmax_back(step: Step, u: fx.Node, _: int) -> fx.Node:
    return step.call(softmax_transposed, u, step.node, dim=step.arguments["dim"])


_SOFTMAX = Implementation(_emit_softmax, specialize=_specialize_softmax, quotients=True)

RULES: RuleTable = {
    Taylor: {
        "softmax": _SOFTMAX,
        "safe_softmax": _SOFTMAX,
        "log_softmax": Implementation(_emit_log_softmax),
    },
    Backpropagation: dict.fromkeys(("softmax", "safe_softmax"), backpropagated(_softmax_back)),
    Constant: constant("attention weights are constants"),
}
