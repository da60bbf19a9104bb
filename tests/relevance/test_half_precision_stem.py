"""The rules of a first convolution in half precision, against the formula in double precision."""

import pytest
import torch
import torch.nn.functional as F

import fxlrp
from fxlrp.rules import ZPlus


def zplus(x: torch.Tensor, weight: torch.Tensor, r: torch.Tensor, stride: int) -> torch.Tensor:
    """``x+ * W+^T(R / z+) + x- * W-^T(R / z+)``, written with windows as a dense map."""
    size = weight.shape[-1]
    windows = F.unfold(x, size, stride=stride)
    contributions = torch.einsum("op,npl->nopl", weight.flatten(1), windows).clamp(min=0)
    shares = contributions / contributions.sum(2, keepdim=True) * r.flatten(2).unsqueeze(2)
    return F.fold(shares.sum(1), x.shape[-2:], size, stride=stride)


@pytest.mark.parametrize(("size", "stride"), [(16, 16), (7, 2), (4, 4)], ids=["patches", "stem", "small"])
def test_zplus_of_images_in_half_precision(size: int, stride: int) -> None:
    torch.manual_seed(0)
    stem = torch.nn.Conv2d(3, 32, size, stride, bias=False).eval().bfloat16()
    x = torch.randn(1, 3, 64, 64).bfloat16()
    with torch.no_grad():
        seed = torch.rand_like(stem(x))
    relevance = fxlrp.compile(stem, rules=[(torch.nn.Conv2d, ZPlus())])(x, seed=seed)
    expected = zplus(x.double(), stem.weight.detach().double(), seed.double(), stride)
    assert (relevance.double() - expected).norm() < 0.02 * expected.norm()
