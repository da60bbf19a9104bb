"""Relevance of attention as one operation, ``O = softmax(S) V`` with ``S = scale * Q K^T + mask``.

Written out, LRP-epsilon shares ``R / s(O)`` between the weights and the values, the Taylor rule passes the share of the
weights to the scores, and LRP-0 passes that to queries and keys, half to each (Achtibat et al., 2024). Every step
passes on a quotient, and together they are the vector-Jacobian product of attention: with
``(dQ, dK, dV) = J^T(R / s(O))``, ``R_V = V * dV / 2``, ``R_Q = Q * dQ / 4`` and ``R_K = K * dK / 4``. If the weights
are constants, ``R_V = V * dV`` (Ali et al., 2022). An operand that does not depend on the input leaves its share to
the others.

The derivatives of both products, without halves, give ``R_V = V * dV``, ``R_Q = Q * dQ`` and ``R_K = K * dK`` (Jafari
et al., 2025).
"""

from __future__ import annotations

import dataclasses
import operator

from torch import fx

from fxlrp.attention import attention_transposed
from fxlrp.program import Relevance
from fxlrp.relevance.proportional import stabilizer_of
from fxlrp.relevance.quotients import over_value
from fxlrp.relevance.step import Choice, Contributions, Implementation, Receivers, RuleTable, Step
from fxlrp.rules.specs import Epsilon, Gradient, SignalTakeAll

QUERY, KEYS, VALUE = range(3)


def _emit(step: Step) -> Contributions:
    assert not isinstance(step.received, Relevance)
    of_weights, of_values = (1.0, 1.0) if step.rule.differentiates else _shares(step.receivers)
    out, kept = (_result(step, index) for index in (0, 1))
    # R / s(n O) with a stabilizer of epsilon is R / (n s(O)) with one of epsilon / n.
    own = dataclasses.replace(step, node=out, received=step.received[0])
    u = over_value(own, stabilizer_of(step.rule) * of_values)
    options = ("mask", "scale", "is_causal", "hides_finitely", "shares_heads")
    how = {
        name: step.arguments[name] for name in options if step.arguments[name] is not step.operation.parameters[name]
    }
    both = step.named(
        "transposed", attention_transposed, u, *step.operands, out, kept, **how, shares=(of_weights, of_values)
    )
    return step.to_receivers(lambda position, operand: step.times(operand, step.call(operator.getitem, both, position)))


def _shares(receivers: tuple[int, ...]) -> tuple[float, float]:
    """The share of each of queries and keys, and that of the values."""
    sides = sum(position in receivers for position in (QUERY, KEYS))
    factors = (sides > 0) + (VALUE in receivers)
    return 1 / (factors * max(sides, 1)), 1 / factors


def _result(step: Step, index: int) -> fx.Node:
    """The node that selects a result of attention."""
    selected = (user for user in step.node.users if user.target is operator.getitem and user.args[1] == index)
    return next(selected, None) or step.call(operator.getitem, step.node, index)


def _values(choice: Choice) -> Receivers:
    """The values, if they depend on the input: the weights are gates."""
    if VALUE in choice.dependent:
        return Receivers((VALUE,), "the attention weights are constants")
    return Receivers(choice.dependent)


RULES: RuleTable = {
    Gradient: Implementation(_emit, quotients=True, vanishes=True),
    Epsilon: Implementation(_emit, quotients=True, vanishes=True),
    SignalTakeAll: Implementation(_emit, _values, quotients=True, vanishes=True),
}
