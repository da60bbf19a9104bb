"""Division and broadcasting, each defined in one place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fxlrp.errors import InputError, RuleError
from fxlrp.relevance.form import Form, reads_form

_UNKNOWN_COMPLEX = "the types of complex values must be known: compile with example_inputs"


def counts_as_zero(epsilon: float, z: Tensor) -> bool:
    """Whether a stabilizer is zero, or less than every positive number of the type of ``z``.

    Where subnormal numbers count as zero (``torch.set_flush_denormal``), the smallest of double precision does, too.
    """
    return epsilon <= 0 or epsilon < torch.finfo(z.dtype).tiny * torch.finfo(z.dtype).eps


def normal_(size: Tensor, epsilon: float) -> Tensor:
    """``size``, at least the smallest normal number of its type if ``epsilon`` is smaller than that, in its memory.

    Relevance over a smaller denominator overflows. Of the usual numbers only float16 has no normal ones: it has 6e-5.
    """
    least = torch.finfo(size.dtype).tiny
    return size.clamp_(min=least) if epsilon < least else size


def held(value: float, dtype: torch.dtype) -> float:
    """A number, or the largest of its sign that a type holds."""
    most = torch.finfo(dtype).max
    return min(max(value, -most), most)


def stabilize(z: Tensor, epsilon: float) -> Tensor:
    """``s(z) = z + epsilon * sgn(z)`` with ``sgn(0) = 1``; for an ``epsilon`` that rounds to 0 zeros become ones.

    For any other ``epsilon`` it has at least the size of the smallest normal number.

    A negative zero has the sign -1: all terms of such a sum are zero, and so is their relevance. LRP-0 computes
    ``0/0`` as 0. Relevance is lost where contributions cancel to exactly 0.

    Raises:
        InputError: The sum is complex, which the program was not compiled for.
    """
    if z.is_complex():
        raise InputError(_UNKNOWN_COMPLEX)
    if counts_as_zero(epsilon, z):
        return _without_zeros(z)
    return normal_(z.abs().add_(epsilon), epsilon).copysign_(z)


def stabilize_clipped(z: Tensor, epsilon: float) -> Tensor:
    """``s(z) = sgn(z) * max(|z|, epsilon)``; for an ``epsilon`` that rounds to 0 zeros become ones."""
    if counts_as_zero(epsilon, z):
        return _without_zeros(z)
    return normal_(z.abs().clamp(min=held(epsilon, z.dtype)), epsilon).copysign(z)


def stabilize_relative(z: Tensor, epsilon: float, clip: bool, dims: tuple[int, ...] | None) -> Tensor:
    """``s(z)`` with ``epsilon`` times the root mean square of ``z`` over ``dims``; zeros become ones.

    Raises:
        RuleError: ``z`` does not have these dimensions.
    """
    over = tuple(range(1, z.dim())) if dims is None else tuple(dim + z.dim() if dim < 0 else dim for dim in dims)
    if len(set(over)) < len(over) or any(not 0 <= dim < z.dim() for dim in over):
        raise RuleError(f"RelativeEpsilon: dims={dims} are not different dimensions of sums of shape {tuple(z.shape)}")
    # An empty tuple would mean all dimensions. A square may overflow in half precision.
    squares = widened(z).square()
    square = squares.mean(over, keepdim=True) if over else squares
    # The derivative of a root is infinite at zero.
    is_zero = square == 0
    scale = (epsilon * square.masked_fill(is_zero, 1.0).sqrt()).masked_fill(is_zero, 1.0).to(z.dtype)
    size = torch.maximum(z.abs(), scale) if clip else z.abs() + scale
    return _without_zeros(size.copysign(z))


def _without_zeros(z: Tensor) -> Tensor:
    """``z`` with ones in place of zeros, as denominators of contributions that are all zero."""
    return z.masked_fill(z == 0, 1.0)


def is_finite(value: Tensor) -> bool:
    """Whether all elements are finite; of a sparse tensor, all elements that it stores."""
    if value.is_meta:
        return True
    if value.layout == torch.sparse_coo:
        value = value.coalesce().values()
    elif value.layout != torch.strided:
        value = value.values()
    # The sum is fast to compute. NaN and infinity always show in it, and overflow is rare.
    sum_is_finite = value.is_floating_point() and math.isfinite(value.detach().sum())
    return sum_is_finite or bool(torch.isfinite(value).all())


def sums_of_samples(values: Tensor) -> Tensor:
    """The sum of the values of each sample, ``(batch,)``."""
    return values.flatten(1).sum(1) if values.dim() > 1 else values


def widened(x: Tensor) -> Tensor:
    """``x`` in at least single precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def stabilize_one_sign(z: Tensor, epsilon: float) -> Tensor:
    """:func:`stabilize` for a sum of terms with the same sign.

    Where the sum is zero all terms are, and any divisor is valid; 1 prevents overflow in half precision.
    """
    # Not in place: the derivative of the stabilizer reads its result.
    return stabilize(z, epsilon).masked_fill(z == 0, 1.0)


@reads_form("like")
def unbroadcast(relevance: Tensor, like: Tensor | Form) -> Tensor:
    """Sum ``relevance`` to the shape of an operand that was broadcast to it, and undo a promotion of its type."""
    # Compare the lengths first: a dynamic size would otherwise be compared with an unrelated one.
    if relevance.dim() != like.dim() or relevance.shape != like.shape:
        relevance = relevance.sum_to_size(like.shape)
    return as_type_of(relevance, like)


def multiply_components(a: Tensor, b: Tensor) -> Tensor:
    """The products of the real parts and of the imaginary parts, each of which has its own relevance."""
    return torch.complex(a.real * b.real, a.imag * b.imag)


def finite_product(factor: Tensor, base: Tensor) -> Tensor:
    """``factor * base``, and zero where the factor is, even if the base is infinite, such as at a masked score."""
    # Mask the base, not the product, whose derivative would be infinite; and no finite base, which is the derivative.
    return factor * base.masked_fill((factor == 0) & ~base.isfinite(), 0.0)


def divide_components(r: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """``R / s(z)`` for the real parts and for the imaginary parts."""
    return torch.complex(r.real / stabilize(z.real, epsilon), r.imag / stabilize(z.imag, epsilon))


def as_type_of(relevance: Tensor, like: Tensor | Form) -> Tensor:
    """``relevance`` in the type of an operand; unchanged for tokens, which are integers.

    Raises:
        InputError: The relevance is complex, but the operand is not.
    """
    if relevance.is_complex() and not like.is_complex():
        raise InputError(_UNKNOWN_COMPLEX)
    return relevance.to(like.dtype) if like.is_floating_point() else relevance


@reads_form("operand")
def part(operand: Tensor | Form, relevance: Tensor, *, share: float) -> Tensor:
    """``R_a = share * R``, for any values."""
    return unbroadcast(relevance if share == 1 else share * relevance, operand)
