"""Scaled sums and products, quotients of numbers, and spellings with other arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from fxlrp.decomposition.builder import Builder, Made
from fxlrp.einsum import axis, repeated, subscripts


def _scaled(build: Builder, value: Any, alpha: Any) -> Any:
    return value if alpha == 1 else build("mul", value, alpha)


def _rsub(build: Builder, input: Any, other: Any, alpha: Any) -> fx.Node:
    return build("sub", other, _scaled(build, input, alpha))


def _add_scaled(build: Builder, input: Any, other: Any, alpha: Any) -> fx.Node:
    return build("add", input, _scaled(build, other, alpha))


def _sub_scaled(build: Builder, input: Any, other: Any, alpha: Any) -> fx.Node:
    return build("sub", input, _scaled(build, other, alpha))


def _glu(build: Builder, input: Any, dim: int) -> fx.Node:
    halves = build("chunk", input, 2, dim=dim)
    return build("mul", build("getitem", halves, 0), build("sigmoid", build("getitem", halves, 1)))


def _addmm(build: Builder, input: Any, mat1: Any, mat2: Any, beta: Any, alpha: Any) -> fx.Node:
    constants = isinstance(mat2, fx.Node) and mat2.op == "get_attr" and input.op == "get_attr"
    if beta == 1 and alpha == 1 and constants:
        # A dense layer whose weight is stored transposed.
        return build("linear", mat1, build("transpose", mat2, -2, -1), input)
    product = build("matmul", mat1, mat2)
    return build("add", _scaled(build, input, beta), _scaled(build, product, alpha))


def _baddbmm(build: Builder, input: Any, batch1: Any, batch2: Any, beta: Any, alpha: Any) -> fx.Node:
    product = build("matmul", batch1, batch2)
    return build("add", _scaled(build, input, beta), _scaled(build, product, alpha))


def _addcmul(build: Builder, input: Any, tensor1: Any, tensor2: Any, value: Any) -> fx.Node:
    return build("add", input, _scaled(build, build("mul", tensor1, tensor2), value))


def _local_response_norm(build: Builder, input: Any, **given: Any) -> fx.Node:
    return build("div", input, build("local_response", input, **given))


def _where_method(build: Builder, input: Any, condition: Any, other: Any) -> fx.Node:
    return build("where", condition, input, other)


def _divide(build: Builder, input: Any, other: Any, rounding_mode: str | None) -> fx.Node | None:
    """A quotient that is rounded, or whose numerator is constant: ``2 / x`` becomes ``2 * x ** -1``.

    A constant numerator cannot receive relevance. If ``x`` is a size, it is a number, and the power is valid too.
    """
    if rounding_mode is not None:
        return build("rounded_quotient", input, other, rounding_mode)
    is_constant = not isinstance(input, fx.Node) or (build.depends(other) and not build.depends(input))
    return build("mul", build("pow", other, -1.0), input) if is_constant else None


def _addmv(build: Builder, input: Any, mat: Any, vec: Any, beta: Any, alpha: Any) -> fx.Node:
    return build("add", _scaled(build, input, beta), _scaled(build, build("matmul", mat, vec), alpha))


def _addr(build: Builder, input: Any, vec1: Any, vec2: Any, beta: Any, alpha: Any) -> fx.Node:
    return build("add", _scaled(build, input, beta), _scaled(build, _outer(build, vec1, vec2), alpha))


def _addbmm(build: Builder, input: Any, batch1: Any, batch2: Any, beta: Any, alpha: Any) -> fx.Node:
    product = build("sum", build("matmul", batch1, batch2), dim=0)
    return build("add", _scaled(build, input, beta), _scaled(build, product, alpha))


def _addcdiv(build: Builder, input: Any, tensor1: Any, tensor2: Any, value: Any) -> fx.Node:
    return build("add", input, _scaled(build, build("div", tensor1, tensor2), value))


def _lerp(build: Builder, input: Any, end: Any, weight: Any) -> fx.Node:
    return build("add", input, build("mul", build("sub", end, input), weight))


def _outer(build: Builder, input: Any, vec2: Any) -> fx.Node:
    return build("mul", build("unsqueeze", input, 1), vec2)


def _vdot(build: Builder, input: Any, other: Any) -> fx.Node:
    return build("sum", build("mul", input, other))


def _vecdot(build: Builder, x: Any, y: Any, dim: int) -> fx.Node:
    return build("sum", build("mul", x, y), dim=dim)


def _polar(build: Builder, abs: Any, angle: Any) -> fx.Node:
    parts = (build("mul", abs, build(function, angle)) for function in ("cos", "sin"))
    return build("complex", *parts)


def _bilinear(build: Builder, input1: Any, input2: Any, weight: Any, bias: Any) -> fx.Node:
    product = build("einsum", "...i,kij,...j->...k", input1, weight, input2)
    return product if bias is None else build("add", product, bias)


def _einsum(build: Builder, equation: Any, operands: Any) -> fx.Node | None:
    """An index that one operand has twice takes a diagonal, whose dimension is the last."""
    if not isinstance(equation, str):
        return None
    inputs, output = subscripts(equation)
    if not any(map(repeated, inputs)):
        return None
    values = list(operands)
    for position, indices in enumerate(inputs):
        while (twice := repeated(indices)) is not None:
            rest = indices.replace(twice, "\0", 1)
            dims = axis(indices, twice), axis(rest, twice)
            values[position] = build("diagonal", values[position], dim1=dims[0], dim2=dims[1])
            indices = indices.replace(twice, "", 2) + twice
        inputs[position] = indices
    return build("einsum", ",".join(inputs) + f"->{output}", *values)


def _power(build: Builder, input: Any, exponent: Any) -> fx.Node | None:
    """A power whose exponent is a value is a function of two operands."""
    return build("power", input, exponent) if isinstance(exponent, fx.Node) else None


def _constant_pad(build: Builder, input: Any, pad: Any, value: Any) -> fx.Node:
    return build("pad", input, pad, value=value)


def _type(build: Builder, input: Any, dtype: Any, non_blocking: bool) -> fx.Node:
    """The type may also be a class of tensors, or its name."""
    named = getattr(torch, dtype.rpartition(".")[2]) if isinstance(dtype, str) else dtype
    return build("to", input, getattr(named, "dtype", named))


DECOMPOSITIONS: Mapping[str, Callable[..., Made | None]] = {
    "div": _divide,
    "type": _type,
    "pow": _power,
    "rsub": _rsub,
    "add_scaled": _add_scaled,
    "sub_scaled": _sub_scaled,
    "addmm": _addmm,
    "baddbmm": _baddbmm,
    "addmv": _addmv,
    "addr": _addr,
    "addbmm": _addbmm,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "lerp": _lerp,
    "outer": _outer,
    "vdot": _vdot,
    "polar": _polar,
    "bilinear": _bilinear,
    "einsum": _einsum,
    "linalg_vecdot": _vecdot,
    "glu": _glu,
    "where_method": _where_method,
    "local_response_norm": _local_response_norm,
    "constant_pad_nd": _constant_pad,
}
