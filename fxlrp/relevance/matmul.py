"""Relevance of matrix products, with a constant or of two values that both depend on the input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from fxlrp.einsum import axis, subscripts
from fxlrp.operation import Gate
from fxlrp.relevance.derived import transposed
from fxlrp.relevance.numerics import unbroadcast
from fxlrp.relevance.products import gate_rank, signals
from fxlrp.relevance.proportional import LinearMap, derivatives, epsilons_by_name, proportional
from fxlrp.relevance.step import Choice, Receivers, RuleTable, Step
from fxlrp.rules.specs import Selective, SignalTakeAll


def matmul_transposed_left(u: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``u B^T`` in the shape of ``A``."""
    if b.dim() == 1:
        return unbroadcast(u.unsqueeze(-1) * b, a)
    if a.dim() == 1:
        return unbroadcast((b @ u.unsqueeze(-1)).squeeze(-1), a)
    return unbroadcast(u @ b.transpose(-1, -2), a)


def matmul_transposed_right(u: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """``A^T u`` in the shape of ``B``."""
    if a.dim() == 1 and b.dim() == 1:
        return a * u
    if a.dim() == 1:
        return unbroadcast(a.unsqueeze(-1) * u.unsqueeze(-2), b)
    if b.dim() == 1:
        return unbroadcast((a.transpose(-1, -2) @ u.unsqueeze(-1)).squeeze(-1), b)
    return unbroadcast(torch.matmul(a.transpose(-1, -2), u), b)


def einsum_transposed(u: Tensor, position: int, equation: str, operands: Sequence[Tensor]) -> Tensor:
    """Contract ``u`` with the other operands of an einsum, in the shape of one operand."""
    inputs, output = subscripts(equation)
    own, others = inputs[position], [*inputs[:position], *inputs[position + 1 :]]
    letters = own.replace("...", "")
    operand, rest = operands[position], [*operands[:position], *operands[position + 1 :]]
    # Relevance is expanded along indices that are summed over in this operand only.
    summed = [letter for letter in letters if letter not in "".join((output, *others))]
    ones = u.new_ones([operand.shape[axis(own, letter)] for letter in summed])
    back = ",".join((output, *others, "".join(summed))) + f"->{own}"
    return unbroadcast(torch.einsum(back, u, *rest, ones), operand)


def _matmul_transposed(step: Step, u: fx.Node, position: int) -> fx.Node:
    own, other = step.operands[position], step.operands[1 - position]
    return step.call(matmul_transposed_right if position else matmul_transposed_left, u, own, other)


def _einsum_transposed(step: Step, u: fx.Node, position: int) -> fx.Node:
    return step.call(einsum_transposed, u, position, step.arguments["equation"], list(step.operands))


def _values(choice: Choice) -> Receivers:
    """The operands that are not gates: the values, not the attention weights."""
    if len(choice.dependent) < 2:
        return Receivers(choice.dependent)
    ranks = [gate_rank(operand, choice) for operand in choice.operands]
    if max(ranks) == min(ranks):
        return Receivers(choice.dependent, "no factor is the gate: equal shares")
    positions = tuple(position for position in choice.dependent if ranks[position] < max(ranks))
    return Receivers(positions, f"operand {ranks.index(max(ranks))} is the gate")


def _selective(choice: Choice) -> Receivers:
    """The operands that are neither weights that a signal selects nor results of a softmax or the like."""
    known = signals(choice)
    if known is not None:
        return known
    if max(gate_rank(operand, choice) for operand in choice.operands) < Gate.SATURATING:
        return Receivers(choice.dependent)
    return _values(choice)


_WRITTEN = {"matmul": _matmul_transposed, "einsum": _einsum_transposed}
_MAPS = {
    **_WRITTEN,
    **dict.fromkeys("tensordot inner kron cross linalg_cross linalg_multi_dot chain_matmul".split(), transposed),
}

RULES: RuleTable = {
    **derivatives(_WRITTEN),
    **epsilons_by_name({name: LinearMap(each, are_factors=True) for name, each in _MAPS.items()}),
    SignalTakeAll: {name: proportional(LinearMap(each, are_factors=True), _values) for name, each in _MAPS.items()},
    Selective: {name: proportional(LinearMap(each, are_factors=True), _selective) for name, each in _MAPS.items()},
}
