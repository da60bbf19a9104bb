"""Find the values that are never negative, whatever the inputs and the parameters.

A rule drops the branches that only negative inputs take there: ZPlus computes one map instead of two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from fxlrp.operation import Family, Operation
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program


@compiler_pass(needs=["dependence"], provides=["signs"])
def infer_signs(program: Program) -> int:
    """Record the non-negative values among those that depend on an input; return how many there are."""
    known: set[fx.Node] = set()
    for node in program.graph.nodes:
        operation = program.vocabulary.operation(node)
        if operation is not None and node in program.dependent and _is_non_negative(operation, node, known):
            known.add(node)
    program.non_negative = frozenset(known)
    return len(known)


def _is_non_negative(operation: Operation, node: fx.Node, known: set[fx.Node]) -> bool:
    arguments = operation.arguments(node)
    if operation.name in _BY_ARGUMENTS:
        return _BY_ARGUMENTS[operation.name](arguments, known)
    if operation.name in _ALWAYS:
        return True
    if operation.name in _KEEPS_SIGN or (operation.family is Family.SHAPE and operation.name not in _FILLS):
        return all(_known(operand, known) for operand in operation.operands_of(node))
    return False


def _known(value: Any, known: set[fx.Node]) -> bool:
    """Whether an operand is non-negative: a value that was found so, or a number."""
    return value in known if isinstance(value, fx.Node) else _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value >= 0


_ALWAYS = frozenset(("relu", "relu6", "sigmoid", "hardsigmoid", "softmax"))

# The result is made of the operands' elements, or of sums of them with weights that are never negative.
_KEEPS_SIGN = frozenset(
    (
        *("add", "softshrink", "hardshrink", "silu", "hardswish", "gelu", "mish", "elu", "celu", "selu"),
        *("leaky_relu", "prelu", "tanh", "softsign", "tanhshrink", "expect_dims", "mean", "sum", "amax"),
        *(f"{pool}{n}d" for pool in ("max_pool", "adaptive_max_pool", "adaptive_avg_pool") for n in (1, 2, 3)),
    )
)
# These bring in a value of their own.
_FILLS = frozenset(("pad", "masked_fill", "where", "setitem"))


def _product(arguments: Mapping[str, Any], known: set[fx.Node]) -> bool:
    a, b = arguments["input"], arguments["other"]
    return (isinstance(a, fx.Node) and a is b) or (_known(a, known) and _known(b, known))


def _clamp(arguments: Mapping[str, Any], known: set[fx.Node]) -> bool:
    low, high = arguments.get("min"), arguments.get("max")
    if high is not None and not _is_number(high):
        return False
    return _is_number(low) or (low is None and _known(arguments["input"], known))


def _all_of(*names: str) -> Callable[[Mapping[str, Any], set[fx.Node]], bool]:
    return lambda arguments, known: all(_known(arguments[name], known) for name in names)


_BY_ARGUMENTS: Mapping[str, Callable[[Mapping[str, Any], set[fx.Node]], bool]] = {
    "mul": _product,
    "div": _all_of("input", "other"),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    # Beyond its threshold softplus is the identity.
    "softplus": lambda arguments, known: (
        _is_number(arguments["beta"]) and (_is_number(arguments["threshold"]) or _known(arguments["input"], known))
    ),
    "hardtanh": lambda arguments, known: _is_number(arguments["min_val"]),
    "threshold": lambda arguments, known: (
        _is_number(arguments["value"]) and (_is_number(arguments["threshold"]) or _known(arguments["input"], known))
    ),
    "pad": lambda arguments, known: (
        _known(arguments["input"], known) and (arguments["value"] is None or _is_number(arguments["value"]))
    ),
    "masked_fill": _all_of("input", "value"),
    "where": _all_of("input", "other"),
    "setitem": _all_of("input", "value"),
    **{
        # A divisor may be negative.
        f"avg_pool{n}d": lambda arguments, known: (
            _known(arguments["input"], known)
            and (arguments.get("divisor_override") is None or _is_number(arguments["divisor_override"]))
        )
        for n in (1, 2, 3)
    },
    # The cubic modes overshoot.
    "interpolate": lambda arguments, known: (
        arguments["mode"] in ("nearest", "nearest-exact", "area", "linear", "bilinear", "trilinear")
        and _known(arguments["input"], known)
    ),
}
