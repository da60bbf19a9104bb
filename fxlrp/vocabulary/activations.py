"""Elementwise functions of one operand."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from fxlrp.functions import hardswish_into, relu6_into, rrelu, silu_into
from fxlrp.operation import REQUIRED, Call, Fact, Family, Gate, Operation
from fxlrp.vocabulary import facts
from fxlrp.vocabulary.schema import row, rows

_ALWAYS_NON_NEGATIVE = "relu relu6 sigmoid hardsigmoid exp square abs".split()
_NON_NEGATIVE_WITH_OPERAND = (
    "silu mish hardswish softsign tanhshrink tanh leaky_relu elu celu selu gelu softshrink hardshrink prelu"
).split()
_POSITIVE_WITH_OPERAND = (
    "relu relu6 celu selu silu gelu mish hardswish tanh softsign tanhshrink softshrink hardshrink clamp_max"
).split()
# Functions that have poles, or that overflow.
_MAY_BE_INFINITE = "log log2 log10 log1p sqrt rsqrt reciprocal exp exp2 expm1 tan".split()
_GATES: Mapping[str, Gate] = {
    **dict.fromkeys(("rsqrt", "reciprocal", "sqrt"), Gate.STATISTIC),
    **dict.fromkeys(("sigmoid", "hardsigmoid", "exp"), Gate.SATURATING),
    **dict.fromkeys(("tanh", "hardtanh", "silu", "mish", "hardswish", "gelu", "softplus"), Gate.SELF_GATED),
}


# Elementary functions that are not finite or not defined everywhere, or that are constant almost everywhere.
_ELEMENTARY = """
    acos(input*)
    acosh(input*)
    asin(input*)
    asinh(input*)
    atanh(input*)
    cosh(input*)
    sinh(input*)
    ceil(input*)
    floor(input*)
    trunc(input*)
    frac(input*)
    round(input*, decimals=0)
    sign(input*)
    sgn(input*)
    sinc(input*)
    angle(input*)
    polygamma(n, input*)
    erfc(input*)
    erfinv(input*)
    logit(input*, eps=None)
    i0(input*)
    special.i0e(input*)
    special.i1(input*)
    special.i1e(input*)
    special.ndtr(input*)
    special.ndtri(input*)
    special.log_ndtr(input*)
    special.erfcx(input*)
    special.entr(input*)
    renorm(input*, p, dim, maxnorm)
"""


def _clamp_is_non_negative(call: Call) -> bool:
    low, high = call.arguments.get("min"), call.arguments.get("max")
    if high is not None and not call.is_non_negative(high):
        return False
    return call.is_non_negative(call.arguments["input"] if low is None else low)


def _softplus_is_non_negative(call: Call) -> bool:
    """Above its threshold softplus is the identity."""
    beta, threshold, x = (call.arguments[name] for name in ("beta", "threshold", "input"))
    return call.is_non_negative(beta) and (call.is_non_negative(threshold) or call.is_non_negative(x))


def _power_is_non_negative(call: Call) -> bool:
    exponent = call.arguments["exponent"]
    return call.is_non_negative(call.arguments["input"]) or (isinstance(exponent, int) and exponent % 2 == 0)


def _threshold_is_non_negative(call: Call) -> bool:
    value, threshold, x = (call.arguments[name] for name in ("value", "threshold", "input"))
    return call.is_non_negative(value) and (call.is_non_negative(threshold) or call.is_non_negative(x))


def _where_not_positive(*names: str) -> Fact:
    """The result is positive only if the operand is, if these arguments are at most zero; None counts as zero."""

    def fact(call: Call) -> bool:
        values = (call.arguments[name] for name in names)
        return all(value is None or (isinstance(value, int | float) and value <= 0) for value in values)

    return fact


def _where_not_negative(name: str) -> Fact:
    """The result is positive only if the operand is, if this argument is at least zero."""
    return lambda call: call.is_non_negative(call.arguments[name])


_SUPPORT: Mapping[str, Fact] = {
    **dict.fromkeys(_POSITIVE_WITH_OPERAND, facts.always),
    **dict.fromkeys(("clamp", "clamp_min"), _where_not_positive("min")),
    "hardtanh": _where_not_positive("min_val"),
    "threshold": _where_not_positive("value"),
    "leaky_relu": _where_not_negative("negative_slope"),
    "elu": _where_not_negative("alpha"),
}


def _is_zero(*zeros: str, absent: str | None = None) -> Fact:
    """These arguments are zero, and ``absent`` is not given."""

    def fact(call: Call) -> bool:
        values = [call.arguments[name] for name in zeros]
        is_zero = all(isinstance(value, int | float) and value == 0 for value in values)
        return is_zero and (absent is None or call.arguments[absent] is None)

    return fact


_RECTIFIES: Mapping[str, Fact] = {
    "relu": facts.always,
    "clamp": _is_zero("min", absent="max"),
    "clamp_min": _is_zero("min"),
    "threshold": _is_zero("threshold", "value"),
}


_SIGNS: Mapping[str, Fact] = {
    **dict.fromkeys(_ALWAYS_NON_NEGATIVE, facts.always),
    **dict.fromkeys(_NON_NEGATIVE_WITH_OPERAND, facts.of_operands),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), _clamp_is_non_negative),
    "softplus": _softplus_is_non_negative,
    "threshold": _threshold_is_non_negative,
    "hardtanh": lambda call: call.is_non_negative(call.arguments["min_val"]),
    "pow": _power_is_non_negative,
}


def _is_scale(call: Call) -> bool:
    """A clamped scale remains one."""
    return call.operands[0] in call.known


_SCALES: Mapping[str, Fact] = {
    **dict.fromkeys(("exp", "exp2"), facts.always),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), _is_scale),
    "softplus": _softplus_is_non_negative,
}


def _power_is_finite(call: Call) -> bool:
    exponent = call.arguments["exponent"]
    return facts.finite_operands(call) and isinstance(exponent, int) and exponent >= 0


def _operand_is_positive(call: Call) -> bool:
    return call.is_positive(call.arguments["input"])


def _reciprocal_is_finite(call: Call) -> bool:
    return facts.finite_operands(call) and _operand_is_positive(call)


def _clamp_is_positive(call: Call) -> bool:
    low, high = call.arguments["min"], call.arguments.get("max")
    return low is not None and call.is_positive(low) and (high is None or call.is_positive(high))


_POSITIVE: Mapping[str, Fact] = {
    "sqrt": _operand_is_positive,
    "clamp": _clamp_is_positive,
    "clamp_min": _clamp_is_positive,
}

# Parameters whose values the result may contain.
_FINITE: Mapping[str, Fact] = {
    "pow": _power_is_finite,
    "threshold": facts.finite_operands_and("value"),
    "hardtanh": facts.finite_operands_and("min_val", "max_val"),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), facts.finite_operands_and("min", "max")),
    "prelu": facts.finite_operands_and("weight"),
    **dict.fromkeys(("rsqrt", "sqrt", "reciprocal", "log"), _reciprocal_is_finite),
}


def _power_is_statistic(call: Call, dependent: Collection[Any]) -> Gate:
    exponent = call.arguments["exponent"]
    return Gate.STATISTIC if isinstance(exponent, int | float) and exponent < 0 else Gate.NO


def _activation(name: str, function: Callable[..., Any], parameters: Mapping[str, Any], **options: Any) -> Operation:
    finite = _FINITE.get(name, None if name in _MAY_BE_INFINITE else facts.finite_operands)
    signs: dict[str, Any] = {"non_negative": _SIGNS.get(name), "positive": _POSITIVE.get(name)}
    options = {"gate": _GATES.get(name, Gate.NO), "finite": finite, "scale": _SCALES.get(name), **signs, **options}
    return Operation(
        name,
        Family.ACTIVATION,
        function,
        {"input": REQUIRED, **parameters},
        allocates=True,
        keeps_support=_SUPPORT.get(name),
        rectifies=_RECTIFIES.get(name),
        neutral=True,
        is_cheap=name in ("silu", "gelu", "hardswish"),
        # The weights of prelu are those of the second dimension.
        rowwise=None if name == "prelu" else facts.always,
        **options,
    )


def activations() -> Iterator[Operation]:
    """The activations of ``torch.nn``, and the elementary functions."""
    options: dict[str, dict[str, Any]] = {
        "sigmoid": {"aliases": ("expit",)},
        "logsigmoid": {"aliases": ("log_sigmoid",)},
        "relu": {"in_place": torch.relu_},
        "relu6": {"in_place": relu6_into},
        "silu": {"in_place": silu_into},
        "hardswish": {"in_place": hardswish_into},
    }
    for name in "relu relu6 selu silu mish hardswish hardsigmoid logsigmoid softsign tanhshrink tanh sigmoid".split():
        function = getattr(torch, name, None) or getattr(F, name)
        yield _activation(name, function, {"inplace": False}, **options.get(name, {}))
    parametrized: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "leaky_relu": (F.leaky_relu, {"negative_slope": 0.01, "inplace": False}),
        "elu": (F.elu, {"alpha": 1.0, "inplace": False}),
        "celu": (F.celu, {"alpha": 1.0, "inplace": False}),
        "gelu": (F.gelu, {"approximate": "none"}),
        "hardtanh": (F.hardtanh, {"min_val": -1.0, "max_val": 1.0, "inplace": False}),
        "softplus": (F.softplus, {"beta": 1.0, "threshold": 20.0}),
        "softshrink": (F.softshrink, {"lambd": 0.5}),
        "hardshrink": (F.hardshrink, {"lambd": 0.5}),
        "threshold": (F.threshold, {"threshold": REQUIRED, "value": REQUIRED, "inplace": False}),
        "prelu": (F.prelu, {"weight": REQUIRED}),
        "clamp": (torch.clamp, {"min": None, "max": None}),
        "clamp_min": (torch.clamp_min, {"min": REQUIRED}),
        "clamp_max": (torch.clamp_max, {"max": REQUIRED}),
    }
    for name, (function, parameters) in parametrized.items():
        known: dict[str, Any] = {"maps_tokens": facts.one_varies} if name.startswith("clamp") else {}
        known |= {"in_place": F.hardtanh_} if name == "hardtanh" else {}
        yield _activation(name, function, parameters, aliases=("clip",) if name == "clamp" else (), **known)
    slopes = dict(lower=1 / 8, upper=1 / 3, training=False, inplace=False)
    yield _activation("rrelu", rrelu, slopes, required_values={"training": False})
    for name in "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal square abs sin cos tan atan erf".split():
        yield _activation(name, getattr(torch, name), {})
    yield _activation("neg", operator.neg, {}, aliases=("negative",))
    yield from rows(Family.ACTIVATION, _ELEMENTARY, allocates=True)
    gammas = {"digamma(input*)": "psi", "lgamma(input*)": "gammaln", "mvlgamma(input*, p)": "multigammaln"}
    for schema, name_in_special in gammas.items():
        yield row(Family.ACTIVATION, schema, aliases=(name_in_special,), allocates=True)
    yield _activation("pow", operator.pow, {"exponent": REQUIRED}, gate=_power_is_statistic)
