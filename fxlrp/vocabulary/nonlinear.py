"""Functions of several operands, losses, and matrix functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fxlrp import functions, losses
from fxlrp.operation import Family, Gate, Operation
from fxlrp.vocabulary.schema import row, rows

_ELEMENTWISE = """
    hypot(input*, other*)
    copysign(input*, other*)
    fmod(input*, other*)
    remainder(input*, other*)
    ldexp(input*, other*)
    xlogy(input*, other*)
    special.xlog1py(input*, other*)
    float_power(input*, exponent*)
    mse_loss(input*, target*, size_average=None, reduce=None, reduction="mean", weight=None)
    l1_loss(input*, target*, size_average=None, reduce=None, reduction="mean", weight=None)
    smooth_l1_loss(input*, target*, size_average=None, reduce=None, reduction="mean", beta=1.0)
    huber_loss(input*, target*, reduction="mean", delta=1.0, weight=None)
    kl_div(input*, target*, size_average=None, reduce=None, reduction="mean", log_target=False)
    soft_margin_loss(input*, target, size_average=None, reduce=None, reduction="mean")
    hinge_embedding_loss(input*, target, margin=1.0, size_average=None, reduce=None, reduction="mean")
    margin_ranking_loss(input1*, input2*, target, margin=0, size_average=None, reduce=None, reduction="mean")
"""

_NOT_ELEMENTWISE = """
    prod(input*, dim=None, keepdim=False, dtype=None)
    cumprod(input*, dim, dtype=None)
    linalg.vander(x*, N=None)
    ctc_loss(log_probs*, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False)
"""

_NORMS = """
    cdist(x1*, x2*, p=2.0, compute_mode=None)
    pdist(input*, p=2)
    linalg.norm(A*, ord=None, dim=None, keepdim=False, dtype=None)
"""

_MATRIX = """
    matrix_exp(input*)
    cholesky(input*, upper=False)
    cholesky_inverse(input*, upper=False)
    logdet(input*)
    pinverse(input*, rcond=1e-15)
    linalg.det(A*)
    linalg.cholesky(A*, upper=False)
    linalg.eigvals(A*)
    linalg.eigvalsh(A*, UPLO="L")
    linalg.svdvals(A*, driver=None)
    linalg.householder_product(A*, tau*)
    linalg.matrix_power(A*, n)
    linalg.inv(A*)
    linalg.pinv(A*, atol=None, rtol=None, hermitian=False)
    linalg.solve(A*, B*, left=True)
    linalg.solve_triangular(A*, B*, upper=None, left=True, unitriangular=False)
    linalg.lu_solve(LU*, pivots, B*, left=True, adjoint=False)
    linalg.tensorinv(A*, ind=2)
    linalg.tensorsolve(A*, B*, dims=None)
    lu_solve(b*, LU_data*, LU_pivots)
    ormqr(input*, tau*, other*, left=True, transpose=False)
"""

_MATRIX_SEVERAL = """
    qr(input*, some=True)
    svd(input*, some=True, compute_uv=True)
    triangular_solve(b*, A*, upper=True, transpose=False, unitriangular=False)
    lu_unpack(LU_data*, LU_pivots, unpack_data=True, unpack_pivots=True)
    linalg.cholesky_ex(A*, upper=False, check_errors=False)
    linalg.eig(A*)
    linalg.eigh(A*, UPLO="L")
    linalg.inv_ex(A*, check_errors=False)
    linalg.lstsq(A*, B*, rcond=None, driver=None)
    linalg.lu(A*, pivot=True)
    linalg.lu_factor(A*, pivot=True)
    linalg.lu_factor_ex(A*, pivot=True, check_errors=False)
    linalg.qr(A*, mode="reduced")
    linalg.slogdet(A*)
    linalg.solve_ex(A*, B*, left=True, check_errors=False)
    linalg.svd(A*, full_matrices=True, driver=None)
"""


_LOGITS = "weight=None, size_average=None, reduce=None, reduction='mean', pos_weight=None"
_POISSON = "log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction='mean'"
_REDUCTION = "size_average=None, reduce=None, reduction='mean'"
_TRIPLET = "margin=1.0, p=2, eps=1e-6, swap=False, size_average=None, reduce=None, reduction='mean'"


def nonlinear() -> Iterator[Operation]:
    """Functions of several operands, and reductions that are not linear."""
    known: dict[str, Any] = {"allocates": True}
    elementwise: dict[str, Any] = {"allocates": True, "elementwise": True}
    yield from rows(Family.FUNCTION, _ELEMENTWISE, **elementwise)
    quotient = "rounded_quotient(input*, other*, rounding_mode)"
    yield row(Family.FUNCTION, quotient, functions.rounded_quotient, **elementwise)
    covariance = "cov(input*, correction=1, fweights=None, aweights=None)"
    yield row(Family.FUNCTION, covariance, functions.covariance, **known)
    yield row(Family.FUNCTION, "power(input*, exponent*)", functions.power, **elementwise)
    # Only the ratio matters: the denominator is a weight, as in a quotient.
    yield row(Family.FUNCTION, "atan2(input*, other)", held_constant=("other",), **elementwise)
    yield row(Family.FUNCTION, f"binary_cross_entropy_with_logits(input*, target*, {_LOGITS})", **elementwise)
    yield row(Family.FUNCTION, f"poisson_nll_loss(input*, target*, {_POISSON})", **elementwise)
    schema = f"binary_cross_entropy(input*, target*, weight=None, {_REDUCTION})"
    yield row(Family.FUNCTION, schema, losses.binary_cross_entropy, **elementwise)
    gaussian = 'gaussian_nll_loss(input*, target*, var*, full=False, eps=1e-6, reduction="mean")'
    yield row(Family.FUNCTION, gaussian, losses.gaussian_nll_loss, **elementwise)
    response = "local_response(input*, size, alpha, beta, k)"
    yield row(Family.FUNCTION, response, functions.local_response, **known)
    yield from rows(Family.FUNCTION, _NOT_ELEMENTWISE, **known)
    schema = f"multi_margin_loss(input*, target, p=1, margin=1.0, weight=None, {_REDUCTION})"
    yield row(Family.FUNCTION, schema, losses.multi_margin_loss, **known)
    schema = f"multilabel_margin_loss(input*, target, {_REDUCTION})"
    yield row(Family.FUNCTION, schema, losses.multilabel_margin_loss, **known)
    yield row(Family.FUNCTION, f"triplet_margin_loss(anchor*, positive*, negative*, {_TRIPLET})", **known)
    for name in ("scatter", "index"):
        schema = f"{name}_product(input*, dim, index, source*, include_self=True)"
        yield row(Family.FUNCTION, schema, getattr(functions, f"{name}_product"), **known)
    norm: dict[str, Any] = {"gate": Gate.STATISTIC, "homogeneous": True, **known}
    yield from rows(Family.FUNCTION, _NORMS, **norm)
    named: dict[str, Any] = {"qualified_names": ("torch._C._linalg.linalg_matrix_norm",)}
    of_matrices = 'linalg.matrix_norm(A*, ord="fro", dim=(-2, -1), keepdim=False, dtype=None)'
    yield row(Family.FUNCTION, of_matrices, functions.matrix_norm, **norm, **named)
    rest = "weight=None, size_average=None, ignore_index=-100, reduce=None, reduction='mean'"
    yield row(Family.TRANSFORM, f"nll_loss(input*, target, {rest})", aliases=("nll_loss_nd",), **known)
    rest = "weight=None, ignore_index=-100, reduction='mean', label_smoothing=0.0"
    schema = f"expected_log_loss(input*, target, {rest})"
    yield row(Family.TRANSFORM, schema, functions.expected_log_loss, **known)


def matrix_functions() -> Iterator[Operation]:
    """Functions of matrices, for which the field has no rule."""
    yield from rows(Family.MATRIX_FUNCTION, _MATRIX, allocates=True)
    yield row(Family.MATRIX_FUNCTION, "corrcoef(input*)", functions.correlation, allocates=True)
    named: dict[str, Any] = {"qualified_names": ("torch._C._linalg.linalg_cond",)}
    yield row(Family.MATRIX_FUNCTION, "linalg.cond(A*, p=None)", functions.condition_number, allocates=True, **named)
    yield from rows(Family.MATRIX_FUNCTION, _MATRIX_SEVERAL, multiple_results=True, allocates=True)
