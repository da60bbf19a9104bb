"""The parameters with which functions of matrices are tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from places import Arguments, M, V, fixed, of

MATRIX, PAIR = V(3, 3, domain="regular"), V(2, 3, 3, domain="regular")
SPD = V(3, 3, domain="positive definite")
LOWER = V(3, 3, domain="lower triangular")
RIGHT = V(3, 2)
PIVOTS = torch.tensor([2, 2, 3], dtype=torch.int32)


def _of_one_result() -> Iterator[tuple[str, list[Arguments]]]:
    yield "matrix_exp", of(MATRIX, {"input": PAIR})
    for name in ("cholesky", "linalg_cholesky"):
        own = "input" if name == "cholesky" else "A"
        yield name, [{own: SPD}, {own: SPD, "upper": True}]
    yield "cholesky_inverse", [dict(input=LOWER), dict(input=V(3, 3, domain="upper triangular"), upper=True)]
    yield "corrcoef", of(M, {"input": V(3, 5)})
    yield "logdet", of(SPD, {"input": V(2, 3, 3, domain="positive definite")})
    yield "pinverse", of(MATRIX, {"input": V(4, 3, domain="regular")})
    for name in ("det", "eigvals", "inv", "svdvals"):
        yield f"linalg_{name}", [dict(A=MATRIX), dict(A=PAIR)]
    yield "linalg_cond", [dict(A=MATRIX, p=p) for p in (None, 1, "fro")]
    yield "linalg_eigvalsh", [dict(A=SPD, UPLO=side) for side in ("L", "U")]
    yield "linalg_householder_product", [dict(A=V(4, 3), tau=V(3)), dict(A=V(4, 3), tau=fixed(3))]
    yield "linalg_matrix_power", [dict(A=MATRIX, n=n) for n in (2, 3, -1)]
    yield "linalg_pinv", [dict(A=V(4, 3, domain="regular")), dict(A=SPD, hermitian=True)]
    for name in ("solve", "solve_ex"):
        rights: list[Any] = [RIGHT, fixed(3, 2)]
        yield f"linalg_{name}", [dict(A=MATRIX, B=right) for right in rights] + [dict(A=MATRIX, B=V(2, 3), left=False)]
    yield (
        "linalg_solve_triangular",
        [
            dict(A=LOWER, B=RIGHT, upper=False),
            dict(A=LOWER, B=V(2, 3), upper=False, left=False),
        ],
    )
    yield "linalg_lu_solve", [dict(LU=MATRIX, pivots=PIVOTS, B=RIGHT), dict(LU=MATRIX, pivots=PIVOTS, B=fixed(3, 2))]
    yield (
        "lu_solve",
        [dict(b=RIGHT, LU_data=MATRIX, LU_pivots=PIVOTS), dict(b=fixed(3, 2), LU_data=MATRIX, LU_pivots=PIVOTS)],
    )
    yield "linalg_tensorinv", [dict(A=V(3, 3, domain="regular"), ind=1), dict(A=V(4, 2, 2, domain="unfolded"), ind=1)]
    yield "linalg_tensorsolve", [dict(A=MATRIX, B=V(3)), dict(A=MATRIX, B=fixed(3))]
    yield (
        "ormqr",
        [dict(input=V(3, 3), tau=V(3), other=RIGHT), dict(input=V(3, 3), tau=V(3), other=RIGHT, transpose=True)],
    )


def _of_several_results() -> Iterator[tuple[str, list[Arguments]]]:
    tall = V(4, 3, domain="regular")
    yield "qr", [dict(input=tall), dict(input=MATRIX, some=False)]
    yield "svd", [dict(input=tall), dict(input=MATRIX)]
    yield (
        "triangular_solve",
        [
            dict(b=RIGHT, A=V(3, 3, domain="upper triangular")),
            dict(b=RIGHT, A=LOWER, upper=False, transpose=True),
        ],
    )
    yield (
        "lu_unpack",
        [dict(LU_data=MATRIX, LU_pivots=PIVOTS), dict(LU_data=MATRIX, LU_pivots=PIVOTS, unpack_pivots=False)],
    )
    yield "linalg_cholesky_ex", [dict(A=SPD), dict(A=SPD, upper=True)]
    for name in ("eig", "inv_ex", "slogdet", "lu", "lu_factor", "lu_factor_ex"):
        yield f"linalg_{name}", [dict(A=MATRIX), dict(A=PAIR)]
    yield "linalg_eigh", [dict(A=SPD, UPLO=side) for side in ("L", "U")]
    yield "linalg_lstsq", [dict(A=tall, B=V(4, 2)), dict(A=tall, B=fixed(4, 2))]
    yield "linalg_qr", [dict(A=tall), dict(A=MATRIX, mode="complete")]
    yield "linalg_svd", [dict(A=tall, full_matrices=False), dict(A=MATRIX)]


MATRIX_FUNCTIONS: dict[str, list[Arguments]] = {
    name: given for group in (_of_one_result, _of_several_results) for name, given in group()
}
