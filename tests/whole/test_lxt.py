"""The preset attnlrp against lxt's explicit functions, where the conventions agree (docs/transformers.md says more).

lxt is no dependency of the tests; `pip install --no-deps lxt` runs these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fxlrp
from fxlrp import presets
from helpers import as_tuple
from oracles import One, Two, random

lxt: Any = pytest.importorskip("lxt.explicit.functional")

WEIGHT, BIAS = random(5, 6, seed=1), random(5, seed=2)
# Large, for lxt's layer_norm fixes its stabilizer, 1e-6, and adds it whatever the sign of the output.
SCALE, SHIFT = 1e3 * random(6, seed=3), 1e3 * random(6, seed=4)
A, B = random(2, 4, 6), random(2, 6, 3, seed=5)

# what fxlrp compiles, what lxt calls, and the operands
CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "softmax": (lambda x: torch.softmax(x, -1), lambda x: lxt.softmax(x, -1), (A,)),
    "linear": (lambda x: F.linear(x, WEIGHT, BIAS), lambda x: lxt.linear_epsilon(x, WEIGHT, BIAS, 1e-9), (A,)),
    "matmul": (lambda a, b: a @ b, lambda a, b: lxt.matmul(a, b, epsilon=1e-9), (A, B)),
    "add": (lambda a, b: a + b, lambda a, b: lxt.add2(a, b, epsilon=1e-9), (A, random(2, 4, 6, seed=6))),
    "mul": (lambda a, b: a * b, lambda a, b: lxt.mul2(a, b), (A, random(2, 4, 6, seed=6))),
    "mean": (lambda x: x.mean(1), lambda x: lxt.mean(x, 1, False, 1e-9), (A,)),
    "layer_norm": (
        lambda x: F.layer_norm(x, (6,), SCALE, SHIFT, 1e-5),
        lambda x: lxt.layer_norm(x, SCALE, SHIFT, 1e-5),
        (A,),
    ),
    "rms_norm": (
        lambda x: F.rms_norm(x, (6,), SCALE, 1e-5),
        lambda x: lxt.rms_norm_identity(x, SCALE, 1e-5),
        (A,),
    ),
    "normalize": (lambda x: F.normalize(x, dim=-1), lambda x: lxt.normalize(x, dim=-1), (A,)),
}


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_lxt(name: str) -> None:
    ours, theirs, operands = CASES[name]
    model = (One if len(operands) == 1 else Two)(ours).eval()
    leaves = [operand.clone().requires_grad_() for operand in operands]
    out = theirs(*leaves)
    relevance = random(*out.shape, seed=7)
    expected = torch.autograd.grad(out, leaves, relevance)
    found = fxlrp.compile(model, presets.attnlrp(epsilon=1e-9))(*operands, seed=relevance)
    for each, other in zip(as_tuple(found), expected, strict=True):
        torch.testing.assert_close(each, other, rtol=1e-6, atol=1e-6)
