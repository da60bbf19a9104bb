"""is_finite reads the sum of a tensor first, which overflows for some tensors of finite numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fxlrp.relevance.numerics import is_finite

INF, NAN = float("inf"), float("nan")
LARGEST = {dtype: torch.finfo(dtype).max for dtype in (torch.float64, torch.float32, torch.float16)}


@pytest.mark.parametrize("dtype", LARGEST, ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_that_overflows(dtype: torch.dtype, sign: int) -> None:
    large = torch.full((9,), sign * LARGEST[dtype], dtype=dtype)
    assert not large.sum().isfinite() and is_finite(large)
    large[4] = INF
    assert not is_finite(large)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, INF], False), ([INF, -INF], False), ([NAN, 1.0], False), ([0.0, -2.0], True), ([], True)],
    ids=str,
)
def test_values_of_every_layout(values: list[float], expected: bool) -> None:
    dense = torch.tensor(values)
    layouts: list[Tensor] = [dense, dense.half(), dense.to(torch.complex64), dense.to_sparse()]
    if values:
        layouts.append(dense.unsqueeze(0).to_sparse_csr())
    assert [is_finite(each) for each in layouts] == [expected] * len(layouts)


def test_integers_and_values_on_meta() -> None:
    assert is_finite(torch.tensor([2**62, 2**62, 2**62]))
    assert is_finite(torch.empty(3, device="meta"))
