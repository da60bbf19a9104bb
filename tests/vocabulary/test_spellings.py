"""One meaning for every spelling: what torch can be asked for in several ways gives one relevance."""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
from fxlrp import presets
from fxlrp.operation import Family
from fxlrp.vocabulary import CANONICAL
from oracles import One, Two


def augmented_add(a: Tensor, b: Tensor) -> Tensor:
    a = a.clone()
    a += b
    return a


def augmented_sub(a: Tensor, b: Tensor) -> Tensor:
    a = a.clone()
    a -= b
    return a


def augmented_mul(x: Tensor) -> Tensor:
    x = x.clone()
    x *= 3
    return x


def augmented_div(x: Tensor) -> Tensor:
    x = x.clone()
    x /= 4
    return x


class Changed(nn.Module):
    """The value after a call for its effect alone."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, a: Tensor, *rest: Any) -> Tensor:
        a = a.clone()
        self.function(a, *rest)
        return a


ADD: dict[str, Callable[..., Tensor]] = {
    "a + b": lambda a, b: a + b,
    "a += b": augmented_add,
    "torch.add": torch.add,
    "torch.add, keywords": lambda a, b: torch.add(input=a, other=b),
    "torch.add, alpha=1": lambda a, b: torch.add(a, b, alpha=1),
    "a.add": lambda a, b: a.add(b),
    "a.add_": lambda a, b: a.clone().add_(b),
    "a.add_ for its effect": Changed(lambda a, b: a.add_(b)),
    "operator.add": operator.add,
    "operator.iadd": lambda a, b: operator.iadd(a.clone(), b),
    "a.__add__": lambda a, b: a.__add__(b),
    "a.__iadd__": lambda a, b: a.clone().__iadd__(b),
    "b.__radd__": lambda a, b: b.__radd__(a),
    "alpha=2 of half": lambda a, b: torch.add(a, b / 2, alpha=2),
    "sum of a list": lambda a, b: sum([a, b]),  # type: ignore[dict-item, return-value]
    "minus the negative": lambda a, b: a - (-b),
}
SUB: dict[str, Callable[..., Tensor]] = {
    "a - b": lambda a, b: a - b,
    "a -= b": augmented_sub,
    "torch.sub": torch.sub,
    "torch.subtract": torch.subtract,
    "a.sub": lambda a, b: a.sub(b),
    "a.sub_": lambda a, b: a.clone().sub_(b),
    "a.subtract": lambda a, b: a.subtract(b),
    "a.subtract_": Changed(lambda a, b: a.subtract_(b)),
    "operator.sub": operator.sub,
    "operator.isub": lambda a, b: operator.isub(a.clone(), b),
    "torch.rsub": lambda a, b: torch.rsub(b, a),
    "a.__sub__": lambda a, b: a.__sub__(b),
    "b.__rsub__": lambda a, b: b.__rsub__(a),
    "alpha": lambda a, b: torch.sub(a, 4 * b, alpha=0.25),
    "plus the negative": lambda a, b: a + torch.neg(b),
}
MUL: dict[str, Callable[..., Tensor]] = {
    "a * b": lambda a, b: a * b,
    "torch.mul": torch.mul,
    "torch.multiply": torch.multiply,
    "a.mul": lambda a, b: a.mul(b),
    "a.mul_": lambda a, b: a.clone().mul_(b),
    "a.multiply_": Changed(lambda a, b: a.multiply_(b)),
    "operator.mul": operator.mul,
    "operator.imul": lambda a, b: operator.imul(a.clone(), b),
    "a.__mul__": lambda a, b: a.__mul__(b),
}


def both(function: Callable[..., Tensor], a: Tensor, b: Tensor, r: Tensor) -> tuple[list[float], list[float]]:
    explain = fxlrp.compile(Two(function).eval(), presets.epsilon(0.0))
    first, second = explain(a.clone(), b.clone(), seed=r).values()
    return first.flatten().tolist(), second.flatten().tolist()


# The numbers are such that every quotient is exact.
A, B = torch.tensor([[1.0, 6.0, -3.0]]), torch.tensor([[3.0, -2.0, 1.0]])
R = torch.tensor([[8.0, 16.0, 4.0]])


@pytest.mark.parametrize("spelling", ADD)
def test_spellings_of_add(spelling: str) -> None:
    """``a / (a + b)`` is 1/4, 6/4, 3/2, and ``b / (a + b)`` 3/4, -2/4, -1/2."""
    assert both(ADD[spelling], A, B, R) == ([2.0, 24.0, 6.0], [6.0, -8.0, -2.0])


@pytest.mark.parametrize("spelling", SUB)
def test_spellings_of_sub(spelling: str) -> None:
    """``a / (a - b)`` is -1/2, 6/8, 3/4, and ``-b / (a - b)`` 3/2, 2/8, 1/4."""
    assert both(SUB[spelling], A, B, R) == ([-4.0, 12.0, 3.0], [12.0, 4.0, 1.0])


@pytest.mark.parametrize("spelling", MUL)
def test_spellings_of_mul(spelling: str) -> None:
    """Neither factor is a gate: half each."""
    assert both(MUL[spelling], A, B, R) == ([4.0, 8.0, 2.0], [4.0, 8.0, 2.0])


BASE = [[1.0, -2.0, 4.0], [-1.0, 0.5, 2.0]]
MATRIX = torch.tensor([[1.0, 0.0], [3.0, 1.0], [0.0, 3.0]])

# What it computes -> canonical name -> spellings, the value on BASE, the relevance of the seed 1, 2, 3, ...
UNARY: dict[str, tuple[dict[str, Callable[[Tensor], Tensor]], Any, Any]] = {
    "relu": (
        {
            "torch.relu": torch.relu,
            "torch.relu_": lambda x: torch.relu_(x.clone()),
            "F.relu": F.relu,
            "F.relu_": Changed(F.relu_),
            "inplace": Changed(lambda x: F.relu(x, inplace=True)),
            "inplace by position": Changed(lambda x: F.relu(x, True)),
            "method": lambda x: x.relu(),
            "method_": Changed(lambda x: x.relu_()),
            "nn.ReLU": nn.ReLU(),
            "nn.ReLU in place": Changed(nn.ReLU(inplace=True)),
        },
        [[1.0, 0.0, 4.0], [0.0, 0.5, 2.0]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
    "clamp": (
        {
            "torch.clamp": lambda x: torch.clamp(x, 0, 1),
            "torch.clip": lambda x: torch.clip(x, min=0, max=1),
            "method": lambda x: x.clamp(0, 1),
            "clip": lambda x: x.clip(0, 1),
            "method_": Changed(lambda x: x.clamp_(0, max=1)),
            "clip_": Changed(lambda x: torch.clip_(x, 0, 1)),
        },
        [[1.0, 0.0, 1.0], [0.0, 0.5, 1.0]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
    "neg": (
        {
            "-x": lambda x: -x,
            "torch.neg": torch.neg,
            "torch.negative": torch.negative,
            "method": lambda x: x.neg(),
            "method_": Changed(lambda x: x.neg_()),
            "negative": lambda x: x.negative(),
            "operator": operator.neg,
        },
        [[-1.0, 2.0, -4.0], [1.0, -0.5, -2.0]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
    "mul": (
        {
            "x * 3": lambda x: x * 3,
            "3 * x": lambda x: 3 * x,
            "x *= 3": augmented_mul,
            "torch.mul": lambda x: torch.mul(x, 3),
            "torch.multiply": lambda x: torch.multiply(x, 3),
            "method_": Changed(lambda x: x.mul_(3)),
            "operator": lambda x: operator.mul(3, x),
            "__rmul__": lambda x: x.__rmul__(3),
        },
        [[3.0, -6.0, 12.0], [-3.0, 1.5, 6.0]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
    "div": (
        {
            "x / 4": lambda x: x / 4,
            "x /= 4": augmented_div,
            "torch.div": lambda x: torch.div(x, 4),
            "torch.divide": lambda x: torch.divide(x, 4),
            "torch.true_divide": lambda x: torch.true_divide(x, 4),
            "method": lambda x: x.div(4),
            "method_": Changed(lambda x: x.div_(4)),
            "true_divide_": Changed(lambda x: x.true_divide_(4)),
            "rounding": lambda x: x.div(4, rounding_mode=None),
            "operator": lambda x: operator.truediv(x, 4),
            "itruediv": lambda x: operator.itruediv(x.clone(), 4),
        },
        [[0.25, -0.5, 1.0], [-0.25, 0.125, 0.5]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
    "matmul": (
        {
            "@": lambda x: x @ MATRIX,
            "torch.matmul": lambda x: torch.matmul(x, MATRIX),
            "torch.mm": lambda x: torch.mm(x, MATRIX),
            "torch.bmm": lambda x: torch.bmm(x[None], MATRIX[None])[0],
            "method": lambda x: x.matmul(MATRIX),
            "mm": lambda x: x.mm(MATRIX),
            "bmm": lambda x: x.unsqueeze(0).bmm(MATRIX.unsqueeze(0)).squeeze(0),
            "operator": lambda x: operator.matmul(x, MATRIX),
        },
        # R / z is -1/5, 2/10 and 6, 4/6.5
        [[-5.0, 10.0], [0.5, 6.5]],
        [[-0.2, 0.8, 2.4], [-6.0, 0.5 * (18 + 4 / 6.5), 2 * 12 / 6.5]],
    ),
    "linear": (
        {
            "F.linear": lambda x: F.linear(x, MATRIX.T),
            "keywords": lambda x: F.linear(input=x, weight=MATRIX.T, bias=None),
            "nn.Linear": lambda x: F.linear(x, MATRIX.t()),
        },
        [[-5.0, 10.0], [0.5, 6.5]],
        [[-0.2, 0.8, 2.4], [-6.0, 0.5 * (18 + 4 / 6.5), 2 * 12 / 6.5]],
    ),
    "mean": (
        {
            "torch.mean": lambda x: torch.mean(x, 1),
            "method": lambda x: x.mean(1),
            "dim": lambda x: x.mean(dim=-1),
            "axis": lambda x: torch.mean(x, axis=1),  # type: ignore[call-overload]
            "keepdim": lambda x: x.mean((1,), True).squeeze(1),
        },
        # 1 * x / sum(x), 2 * x / sum(x)
        [1.0, 0.5],
        [[1 / 3, -2 / 3, 4 / 3], [-4 / 3, 2 / 3, 8 / 3]],
    ),
    "sum": (
        {
            "torch.sum": lambda x: torch.sum(x, 1),
            "method": lambda x: x.sum(1),
            "dim": lambda x: x.sum(dim=[-1]),
            "axis": lambda x: x.sum(axis=1),  # type: ignore[call-overload]
            "keepdim": lambda x: torch.sum(x, 1, keepdim=True)[:, 0],
        },
        [3.0, 1.5],
        [[1 / 3, -2 / 3, 4 / 3], [-4 / 3, 2 / 3, 8 / 3]],
    ),
    "transpose": (
        {
            "torch.transpose": lambda x: torch.transpose(x, 0, 1),
            "method": lambda x: x.transpose(-1, 0),
            "swapaxes": lambda x: x.swapaxes(0, 1),
            "torch.swapdims": lambda x: torch.swapdims(x, 1, 0),
            "keywords": lambda x: x.transpose(dim0=0, dim1=1),
            "mT": lambda x: x.mT,
        },
        [[1.0, -1.0], [-2.0, 0.5], [4.0, 2.0]],
        [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]],
    ),
    "permute": (
        {
            "method": lambda x: x.permute(1, 0),
            "tuple": lambda x: x.permute((1, 0)),
            "list": lambda x: x.permute([-1, -2]),
            "torch": lambda x: torch.permute(x, (1, 0)),
            "keyword": lambda x: x.permute(dims=(1, 0)),
        },
        [[1.0, -1.0], [-2.0, 0.5], [4.0, 2.0]],
        [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]],
    ),
    "reshape": (
        {
            "view": lambda x: x.view(3, 2),
            "tuple": lambda x: x.view((3, 2)),
            "size": lambda x: x.view(torch.Size([3, 2])),
            "reshape": lambda x: x.reshape(-1, 2),
            "torch": lambda x: torch.reshape(x, (3, -1)),
            "computed": lambda x: x.view(x.size(1), x.shape[0]),
        },
        [[1.0, -2.0], [4.0, -1.0], [0.5, 2.0]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
    "flatten": (
        {
            "torch": torch.flatten,
            "method": lambda x: x.flatten(),
            "nn": nn.Flatten(0),
            "keyword": lambda x: x.flatten(end_dim=1),
        },
        [1.0, -2.0, 4.0, -1.0, 0.5, 2.0],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
    "cat": (
        {
            "torch.cat": lambda x: torch.cat([x, x], 1),
            "tuple": lambda x: torch.cat((x, x), dim=-1),
            "concat": lambda x: torch.concat([x, x], dim=1),
            "concatenate": lambda x: torch.concatenate([x, x], axis=1),  # type: ignore[call-arg]
            "keywords": lambda x: torch.cat(tensors=[x, x], dim=1),
        },
        [[1.0, -2.0, 4.0, 1.0, -2.0, 4.0], [-1.0, 0.5, 2.0, -1.0, 0.5, 2.0]],
        [[1.0 + 4, 2.0 + 5, 3.0 + 6], [7.0 + 10, 8.0 + 11, 9.0 + 12]],
    ),
    "max_pool1d": (
        {
            "F": lambda x: F.max_pool1d(x, 2, 1),
            "torch": lambda x: torch.max_pool1d(x, 2, 1),
            "nn": nn.MaxPool1d(2, stride=1),
            "keywords": lambda x: F.max_pool1d(input=x, kernel_size=(2,), stride=(1,), return_indices=False),
        },
        [[1.0, 4.0], [0.5, 2.0]],
        [[1.0, 0.0, 2.0], [0.0, 3.0, 4.0]],
    ),
    "avg_pool1d": (
        {
            "F": lambda x: F.avg_pool1d(x, 3),
            "torch": lambda x: torch.avg_pool1d(x, 3),
            "nn": nn.AvgPool1d(3),
            "keywords": lambda x: F.avg_pool1d(x, kernel_size=3, ceil_mode=False),
        },
        [[1.0], [0.5]],
        [[1 / 3, -2 / 3, 4 / 3], [-4 / 3, 2 / 3, 8 / 3]],
    ),
    "adaptive_avg_pool1d": (
        {
            "F": lambda x: F.adaptive_avg_pool1d(x, 1),
            "torch": lambda x: torch.adaptive_avg_pool1d(x, (1,)),
            "nn": nn.AdaptiveAvgPool1d(1),
        },
        [[1.0], [0.5]],
        [[1 / 3, -2 / 3, 4 / 3], [-4 / 3, 2 / 3, 8 / 3]],
    ),
    "masked_fill": (
        {
            "torch": lambda x: torch.masked_fill(x, x < 0, 7.0),
            "method": lambda x: x.masked_fill(x < 0, 7.0),
            "method_": Changed(lambda x: x.masked_fill_(x.lt(0), 7)),
            "keywords": lambda x: x.masked_fill(mask=torch.lt(x, 0), value=7.0),
        },
        [[1.0, 7.0, 4.0], [7.0, 0.5, 2.0]],
        [[1.0, 0.0, 3.0], [0.0, 5.0, 6.0]],
    ),
    "where": (
        {
            "torch": lambda x: torch.where(x > 0, x, 7.0),
            "method": lambda x: x.where(x > 0, torch.tensor(7.0)),
            "the other way round": lambda x: torch.where(x <= 0, torch.tensor(7.0), x),
            "method's keywords": lambda x: x.where(condition=x.gt(0), other=torch.tensor(7.0)),
        },
        [[1.0, 7.0, 4.0], [7.0, 0.5, 2.0]],
        [[1.0, 0.0, 3.0], [0.0, 5.0, 6.0]],
    ),
    "getitem": (
        {
            "slice": lambda x: x[:, 1:],
            "operator": lambda x: operator.getitem(x, (slice(None), slice(1, None))),
            "ellipsis": lambda x: x[..., -2:],
            "list": lambda x: x[:, [1, 2]],
            "mask": lambda x: x[:, torch.tensor([False, True, True])],
            "tensor": lambda x: x[:, torch.tensor([1, 2])],
        },
        [[-2.0, 4.0], [0.5, 2.0]],
        [[0.0, 1.0, 2.0], [0.0, 3.0, 4.0]],
    ),
    "unsqueeze": (
        {
            "torch": lambda x: torch.unsqueeze(x, 1),
            "method": lambda x: x.unsqueeze(-2),
            "method_": lambda x: x.clone().unsqueeze_(1),
        },
        [[[1.0, -2.0, 4.0]], [[-1.0, 0.5, 2.0]]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
    "": (  # nothing at all
        {
            "F.dropout": lambda x: F.dropout(x, 0.5, False),
            "keyword": lambda x: F.dropout(x, training=False),
            "in place": lambda x: F.dropout(x, training=False, inplace=True),
            "torch.dropout": lambda x: torch.dropout(x, 0.5, False),
            "torch.dropout, train": lambda x: torch.dropout(x, p=0.5, train=False),
            "nn.Dropout": nn.Dropout(),
            "nn.AlphaDropout": nn.AlphaDropout(),
            "nn.Identity": nn.Identity(),
            "clone": lambda x: x.clone(),
            "torch.clone": torch.clone,
            "contiguous": lambda x: x.contiguous(memory_format=torch.contiguous_format),
            "+x": lambda x: +x,
            "detach": lambda x: x.detach(),
            "data": lambda x: x.data,
        },
        BASE,
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    ),
}
SPELLINGS = [(operation, spelling) for operation, (spellings, _, _) in UNARY.items() for spelling in spellings]


@pytest.mark.parametrize(("name", "spelling"), SPELLINGS)
def test_spellings(name: str, spelling: str) -> None:
    """One operation in the graph, the value, and the relevance by hand, whichever way it is written."""
    spellings, value, relevance = UNARY[name]
    function = spellings[spelling]
    x = torch.tensor(BASE)
    model = One(function).eval()
    torch.testing.assert_close(model(x.clone()), torch.tensor(value))
    explain = fxlrp.compile(model.eval(), presets.epsilon(0.0))
    out = torch.tensor(value)
    seed = torch.arange(1.0, out.numel() + 1).reshape(out.shape)
    torch.testing.assert_close(explain(x, seed=seed), torch.tensor(relevance))
    operations = [operation.name for node in explain.nodes if (operation := CANONICAL.operation(node))]
    assert not name or operations.count(name) == 1
    assert not [op for op in operations if CANONICAL.operations[op].family in (Family.COMPOSITE, Family.IDENTITY)]


def summed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return function(x).sum(1)


def test_hand_computed_gelu_and_softplus_pass_all_their_options() -> None:
    """The value of an activation enters the next layer's share: an option that is lost shows there."""
    x = torch.tensor([[0.5, -1.0]])
    for function, value in (
        (lambda x: F.gelu(x, approximate="tanh"), None),
        (lambda x: F.softplus(x, 2.0, 5.0), [math.log1p(math.exp(1.0)) / 2, math.log1p(math.exp(-2.0)) / 2]),
        (lambda x: F.leaky_relu(x, 0.25), [0.5, -0.25]),
        (lambda x: F.elu(x, 2.0), [0.5, 2 * math.expm1(-1.0)]),
        (lambda x: F.hardtanh(x, -0.75, 0.25), [0.25, -0.75]),
        (lambda x: F.threshold(x, 0.6, 3.0), [3.0, 3.0]),
        (lambda x: F.threshold(x, 0.4, 3.0), [0.5, 3.0]),
    ):
        y = torch.tensor([value]) if value else function(x)
        explain = fxlrp.compile(One(functools.partial(summed, function)).eval(), presets.epsilon(0.0))
        torch.testing.assert_close(explain(x), y)  # the sum's value, shared among the two


def test_functions_of_torch_special_are_known_in_aten() -> None:
    """``torch.export`` calls ``aten.special_erf`` where symbolic tracing sees ``torch.erf``."""
    names = [name for name in dir(torch.special) if hasattr(torch.ops.aten, f"special_{name}")]
    known = {name: CANONICAL.spelling(getattr(torch.special, name)) for name in names}
    found = {name: CANONICAL.spelling(getattr(torch.ops.aten, f"special_{name}")) for name in names}
    assert {name: each and each.operation for name, each in found.items()} == {
        name: each and each.operation for name, each in known.items()
    }
    assert {"erf", "i0", "gammaln", "psi", "log_softmax"} <= {name for name, each in known.items() if each}


def test_a_sparse_product_is_captured_by_both_front_ends() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("edges", torch.eye(3, dtype=torch.float64).roll(1, 0).to_sparse())

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = torch.sparse.mm(self.edges, x)
            return out

    x = torch.randn(3, 2, dtype=torch.float64)
    captures: tuple[Any, ...] = ("symbolic", "export")
    for capture in captures:
        found = fxlrp.compile(Graph().eval(), presets.epsilon(0.0), example_inputs=x, capture=capture)(
            x, seed=x.roll(1, 0)
        )
        torch.testing.assert_close(found, x)
