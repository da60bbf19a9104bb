"""The computation of relevance: pure tensor functions, with a file for each family of operations.

Each file defines the rules of its family and how their steps are emitted. This module joins them in one table.
"""

from __future__ import annotations

from collections.abc import Mapping

from fxlrp.operation import Family, Operation
from fxlrp.relevance import (
    activation,
    attention,
    average,
    custom,
    derived,
    embedding,
    identity,
    linear,
    mask,
    matmul,
    max_pool,
    normalization,
    products,
    recurrent,
    shape,
    softmax,
    sums,
)
from fxlrp.relevance.step import Implementation, RuleTable
from fxlrp.relevance.tokens import MAPPED, MapTokens
from fxlrp.rules.specs import EPSILONS, Rule

RULES: Mapping[Family, RuleTable] = {
    Family.LINEAR: linear.RULES,
    Family.SUM: sums.RULES,
    Family.PRODUCT: products.RULES,
    Family.MATMUL: matmul.RULES,
    Family.ACTIVATION: activation.RULES,
    Family.MAX_POOL: max_pool.RULES,
    Family.AVERAGE: average.RULES,
    Family.NORMALIZATION: normalization.RULES,
    Family.SHAPE: shape.RULES,
    Family.SOFTMAX: softmax.RULES,
    Family.MASK: mask.RULES,
    Family.ATTENTION: attention.RULES,
    Family.EMBEDDING: embedding.RULES,
    Family.RECURRENT: recurrent.RULES,
    Family.CHECK: activation.CHECKS,
    Family.IDENTITY: identity.RULES,
    Family.TRANSFORM: derived.TRANSFORM,
    Family.SELECTION: derived.SELECTION,
    Family.FUNCTION: derived.FUNCTION,
    Family.MATRIX_FUNCTION: {},
    Family.UNKNOWN: {},
    Family.CUSTOM: {},
}

# The families to which LRP-epsilon with bias=False applies.
_WITH_BIAS = (Family.LINEAR, Family.NORMALIZATION)


def implementation(operation: Operation, rule: Rule) -> Implementation | None:
    """The implementation of ``rule`` for ``operation``; None if the rule does not fit."""
    if isinstance(rule, MapTokens):
        return MAPPED if operation.maps_tokens is not None else None
    if isinstance(rule, EPSILONS) and not rule.bias and operation.family not in _WITH_BIAS:
        return None
    return _found(operation, type(rule))


def _found(operation: Operation, rule: type[Rule]) -> Implementation | None:
    for table in (RULES.get(operation.family, {}), _of_any(operation)):
        entry = table.get(rule)
        found = entry.get(operation.name) if isinstance(entry, Mapping) else entry
        if found is not None and found.fits(operation):
            return found
    return None


def _of_any(operation: Operation) -> RuleTable:
    """The rules that fit every operation; the gradient does not exist for tokens, which are integers."""
    return custom.RULES if operation.token_operand else {**custom.RULES, **derived.ANY}


def fitting_rules(operation: Operation) -> list[str]:
    """The names of the rules that fit ``operation``."""
    rules = {**RULES.get(operation.family, {}), **_of_any(operation)}
    return sorted(rule.__name__ for rule in rules if _found(operation, rule) is not None)
