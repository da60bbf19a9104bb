"""Relevance of matrix products, with a constant or of two values that both depend on the input."""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.relevance.numerics import stabilize, unbroadcast
from fxlrp.relevance.step import Contributions, Implementation, RuleTable, Step
from fxlrp.rules.specs import Epsilon


def matmul_epsilon_left(a: Tensor, b: Tensor, out: Tensor, r: Tensor, *, epsilon: float, operands: int = 1) -> Tensor:
    """``R_A = A * (R / s(n O)) B^T`` for ``O = A B``, shared among ``n`` operands (Achtibat et al., 2024)."""
    r = r / stabilize(operands * out, epsilon)
    if b.dim() == 1:
        return unbroadcast(a * (r.unsqueeze(-1) * b), a)
    if a.dim() == 1:
        return unbroadcast(a * (b @ r.unsqueeze(-1)).squeeze(-1), a)
    return unbroadcast(a * (r @ b.transpose(-1, -2)), a)


def matmul_epsilon_right(b: Tensor, a: Tensor, out: Tensor, r: Tensor, *, epsilon: float, operands: int = 1) -> Tensor:
    """``R_B = B * A^T (R / s(n O))`` for ``O = A B``, shared among ``n`` operands."""
    r = r / stabilize(operands * out, epsilon)
    if a.dim() == 1 and b.dim() == 1:
        return b * (a * r)
    if a.dim() == 1:
        return unbroadcast(b * (a.unsqueeze(-1) * r.unsqueeze(-2)), b)
    if b.dim() == 1:
        return unbroadcast(b * (a.transpose(-1, -2) @ r.unsqueeze(-1)).squeeze(-1), b)
    return unbroadcast(b * torch.matmul(a.transpose(-1, -2), r), b)


def _emit_epsilon(step: Step) -> Contributions:
    assert isinstance(step.rule, Epsilon)
    a, b = step.operands
    options = {"epsilon": step.rule.epsilon, "operands": len(step.receivers)}
    sides = ((matmul_epsilon_left, a, b), (matmul_epsilon_right, b, a))
    return [
        step.call(function, own, other, step.node, step.relevance, **options) if position in step.receivers else None
        for position, (function, own, other) in enumerate(sides)
    ]


RULES: RuleTable = {Epsilon: Implementation(_emit_epsilon)}
