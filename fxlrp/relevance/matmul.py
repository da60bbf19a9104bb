"""Relevance of matrix products, with a constant or of two values that both depend on the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fxlrp.errors import RuleError
from fxlrp.relevance.numerics import stabilize, unbroadcast
from fxlrp.relevance.products import gate_rank
from fxlrp.relevance.quotients import over_value
from fxlrp.relevance.step import Choice, Contributions, Implementation, Receivers, RuleTable, Step
from fxlrp.rules.specs import Epsilon, SignalTakeAll


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


def einsum_epsilon(
    position: int, equation: str, operands: Sequence[Tensor], out: Tensor, r: Tensor, *, epsilon: float, shares: int = 1
) -> Tensor:
    """``R_A = A * (R / s(n O))`` contracted with the other operands, for one of the operands of an einsum.

    Raises:
        RuleError: An operand has an index twice, which takes its diagonal.
    """
    inputs, output = _subscripts(equation)
    own, others = inputs[position], [*inputs[:position], *inputs[position + 1 :]]
    letters = own.replace("...", "")
    if len(set(letters)) < len(letters):
        raise RuleError(f"einsum({equation!r}) takes a diagonal, which has no relevance rule")
    operand, rest = operands[position], [*operands[:position], *operands[position + 1 :]]
    # What is summed over in this operand alone takes its relevance in every place.
    summed = [letter for letter in letters if letter not in "".join((output, *others))]
    ones = r.new_ones([operand.shape[_axis(own, letter)] for letter in summed])
    back = ",".join((output, *others, "".join(summed))) + f"->{own}"
    return unbroadcast(operand * torch.einsum(back, r / stabilize(shares * out, epsilon), *rest, ones), operand)


def _subscripts(equation: str) -> tuple[list[str], str]:
    """The indices of each operand and of the result."""
    left, arrow, output = equation.replace(" ", "").partition("->")
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        output = "..." * ("..." in left) + "".join(sorted(each for each in set(letters) if letters.count(each) == 1))
    return left.split(","), output


def _axis(subscripts: str, letter: str) -> int:
    before, ellipsis, behind = subscripts.partition("...")
    if letter in before or not ellipsis:
        return before.index(letter)
    return behind.index(letter) - len(behind)


def _emit_epsilon(step: Step) -> Contributions:
    assert isinstance(step.rule, Epsilon | SignalTakeAll)
    epsilon = step.rule.epsilon if isinstance(step.rule, Epsilon) else step.rule.stabilizer
    if step.operation.name == "einsum":
        equation, shares = step.arguments["equation"], len(step.receivers)
        operands = list(step.operands)
        options: dict[str, Any] = {"epsilon": epsilon, **({"shares": shares} if shares > 1 else {})}
        return [
            step.call(einsum_epsilon, position, equation, operands, step.node, step.relevance, **options)
            if position in step.receivers
            else None
            for position in range(len(operands))
        ]
    a, b = step.operands
    options = {"epsilon": epsilon, "operands": len(step.receivers)}
    sides = ((matmul_epsilon_left, a, b), (matmul_epsilon_right, b, a))
    return [
        step.call(function, own, other, step.node, step.relevance, **options) if position in step.receivers else None
        for position, (function, own, other) in enumerate(sides)
    ]


def matmul_transposed_left(u: Tensor, a: Tensor, b: Tensor, *, shares: int = 1) -> Tensor:
    """``u B^T`` in the shape of ``A``, divided among ``n`` operands."""
    u = u / shares
    if b.dim() == 1:
        return unbroadcast(u.unsqueeze(-1) * b, a)
    if a.dim() == 1:
        return unbroadcast((b @ u.unsqueeze(-1)).squeeze(-1), a)
    return unbroadcast(u @ b.transpose(-1, -2), a)


def matmul_transposed_right(u: Tensor, b: Tensor, a: Tensor, *, shares: int = 1) -> Tensor:
    """``A^T u`` in the shape of ``B``, divided among ``n`` operands."""
    u = u / shares
    if a.dim() == 1 and b.dim() == 1:
        return a * u
    if a.dim() == 1:
        return unbroadcast(a.unsqueeze(-1) * u.unsqueeze(-2), b)
    if b.dim() == 1:
        return unbroadcast((a.transpose(-1, -2) @ u.unsqueeze(-1)).squeeze(-1), b)
    return unbroadcast(torch.matmul(a.transpose(-1, -2), u), b)


def _specialize(step: Step) -> Contributions | None:
    """``C_A = (R / s(n O)) B^T``, and so on."""
    assert isinstance(step.rule, Epsilon | SignalTakeAll)
    if not step.facts.quotients or step.operation.name == "einsum":
        return None
    a, b = step.operands
    shares = len(step.receivers)
    epsilon = step.rule.epsilon if isinstance(step.rule, Epsilon) else step.rule.stabilizer
    # R / s(n O) with a stabilizer of epsilon is R / (n s(O)) with one of epsilon / n.
    u = over_value(step, epsilon / shares)
    options = {"shares": shares} if shares > 1 else {}
    sides = ((matmul_transposed_left, a, b), (matmul_transposed_right, b, a))
    return [
        step.times(own, step.call(function, u, own, other, **options)) if position in step.receivers else None
        for position, (function, own, other) in enumerate(sides)
    ]


def _values(choice: Choice) -> Receivers:
    """The operands that are no gates: of attention weights and values the values."""
    if len(choice.dependent) < 2:
        return Receivers(choice.dependent)
    ranks = [gate_rank(operand, choice) for operand in choice.operands]
    if max(ranks) == min(ranks):
        return Receivers(choice.dependent, "no factor is more of a gate: equal shares")
    positions = tuple(position for position in choice.dependent if ranks[position] < max(ranks))
    return Receivers(positions, f"operand {ranks.index(max(ranks))} is the gate")


RULES: RuleTable = {
    Epsilon: Implementation(_emit_epsilon, specialize=_specialize),
    SignalTakeAll: Implementation(_emit_epsilon, _values, specialize=_specialize),
}
