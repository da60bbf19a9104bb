"""In-place operations, views and regions in exported graphs, which are traced a second time only where they must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

import fxlrp
from fxlrp import rules
from fxlrp.errors import CaptureError
from fxlrp.program import annotation
from helpers import LRP0
from oracles import One, assert_relevance, random


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is not traced a second time."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the model is traced a second time")

    monkeypatch.setattr(ExportedProgram, "run_decompositions", refuse)


def assert_gradient_times_input(function: Callable[[Tensor], Tensor], x: Tensor, tolerance: float = 1e-9) -> None:
    """For a function that is homogeneous of degree one, LRP-0 is gradient times input."""
    at = x.clone().requires_grad_()
    output = function(at)
    weight = torch.rand_like(output)
    (gradient,) = torch.autograd.grad(output, at, weight)
    explain = fxlrp.compile(One(function).eval(), LRP0, example_inputs=x, capture="export")
    assert_relevance(explain(x, seed=(weight * output).detach()), x * gradient, tolerance)


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "reshape": lambda x: x.reshape(x.shape[0], -1),
    "reshape_as": lambda x: x.reshape_as(x.flatten(1)),
    "view_as": lambda x: x.view_as(2 * x),
    "flatten": lambda x: x.flatten(1),
    "ravel": lambda x: x.ravel(),
    "unflatten": lambda x: x.unflatten(1, (2, 2)),
    "contiguous": lambda x: x.transpose(1, 2).contiguous(),
    "expand_as": lambda x: x[:, :1].expand_as(x),
    "broadcast_to": lambda x: x[:, :1].broadcast_to(x.shape),
    "chunk": lambda x: x.chunk(3, 2)[1],
    "unsafe_chunk": lambda x: torch.unsafe_chunk(x, 3, 2)[1],
    "split": lambda x: x.split(4, 2)[1],
    "split with sizes": lambda x: x.split((1, 3, 2), 2)[1],
    "tensor_split": lambda x: x.tensor_split(4, 2)[1],
    "tensor_split at": lambda x: x.tensor_split((1, 3), 2)[1],
    "hsplit": lambda x: x.hsplit(2)[1],
    "dsplit": lambda x: x.dsplit((1, 4))[1],
    "narrow": lambda x: x.narrow(2, 1, 3),
    "movedim": lambda x: x.movedim(1, 2),
    "movedim several": lambda x: x.movedim((0, 1), (1, 2)),
    "moveaxis": lambda x: x.moveaxis(0, 1),
    "swapaxes": lambda x: x.swapaxes(1, 2),
    "swapdims": lambda x: x.swapdims(1, 2),
    "mT": lambda x: x.mT,
    "T": lambda x: x[0].T,
    "diagonal": lambda x: torch.linalg.diagonal(x, offset=1),
    "positive": lambda x: x.positive(),
    "to another type": lambda x: x.to(torch.float64),
    "to a type and back": lambda x: x.to(torch.float32).to(torch.float64),
    "to like": lambda x: x.to(x.new_ones(1)),
    "to a device": lambda x: x.to("cpu"),
    "to device and type": lambda x: x.to("cpu", torch.float64, memory_format=torch.preserve_format),
    "to a copy": lambda x: x.to(torch.float64, copy=True),
    "to layout": lambda x: x.unsqueeze(1).to(memory_format=torch.channels_last),
    "type_as": lambda x: x.type_as(2 * x),
    "cpu": lambda x: x.cpu(),
    "numel": lambda x: x / x.numel(),
    "dropout": lambda x: F.dropout(x, training=False),
    "dropout1d": lambda x: F.dropout1d(x, training=False),
    "dropout2d": lambda x: F.dropout2d(x.unsqueeze(1), training=False),
    "dropout3d": lambda x: F.dropout3d(x.reshape(x.shape[0], 2, 2, 2, 3), training=False),
    "alpha_dropout": lambda x: F.alpha_dropout(x, training=False),
    "constant": lambda x: x * torch.tensor([2.0, 3.0, 1.0, 4.0, 5.0, 6.0]),
    "adaptive max": lambda x: F.adaptive_max_pool1d(x, 2),
    "max": lambda x: F.max_pool1d(x, 2),
}


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("name", SHAPES)
def test_views_and_casts_are_read_as_they_are(name: str) -> None:
    assert_gradient_times_input(SHAPES[name], random(2, 4, 6), 1e-6 if "back" in name else 1e-9)


def of_part(x: Tensor) -> Tensor:
    y = 2 * x
    y[:, 1].mul_(3)
    return y


def of_part_of_part(x: Tensor) -> Tensor:
    y = 2 * x
    part = y[:, 1:]
    part[:, 0, 2:4].mul_(3)
    return torch.cat((part.flatten(1), y.flatten(1)), 1)


def of_several_parts(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 1:3] = 2 * x[:, :2]
    y[:, 0] = x[:, 3]
    y[:, :2] *= 3
    return y


def of_part_and_whole(x: Tensor) -> Tensor:
    y = 2 * x
    y[:, 1].add_(x[:, 0])
    y.mul_(3)
    y[0] = 0.0
    return y * y.shape[0]


def of_mask(x: Tensor) -> Tensor:
    mask = torch.zeros(4, 6, dtype=x.dtype)
    for number, rows in enumerate((slice(0, -2), slice(-2, -1), slice(-1, None))):
        mask[rows, 1:4] = number
    return x * mask


def of_result(x: Tensor) -> Tensor:
    values, indices = (3 * x).topk(2)
    values /= 2
    return values.gather(2, indices % 2)


LOCAL: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: F.relu(2 * x, inplace=True),
    "twice": lambda x: F.relu((2 * x).mul_(3), inplace=True),
    "add": lambda x: (2 * x).add_(x),
    "augmented": lambda x: (3 * x).mul_(2).div_(x.shape[0]),
    "view before": lambda x: F.relu((2 * x).flatten(1), inplace=True),
    "view after": lambda x: F.relu(2 * x, inplace=True).flatten(1) * 3,
    "masked": lambda x: (2 * x).masked_fill_(torch.tensor([True, False, True, True, False, False]), 0.0),
    "of a number": lambda x: (2 * x).mul_(torch.tensor(3.0)),
    "of integers": lambda x: (2 * x).mul_(torch.arange(6)),
    "part": of_part,
    "part of part": of_part_of_part,
    "several parts": of_several_parts,
    "part and whole": of_part_and_whole,
    "mask": of_mask,
    "one of several results": of_result,
}


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("name", LOCAL)
def test_a_change_that_only_the_changed_value_and_what_contains_it_show(name: str) -> None:
    assert_gradient_times_input(LOCAL[name], random(2, 4, 6))


def of_view(x: Tensor) -> Tensor:
    y = 2 * x
    z = y.flatten(1)
    y.mul_(3)
    return z


def of_overlapping_parts(x: Tensor) -> Tensor:
    y = 2 * x
    first, second = y[:, :3], y[:, 1:]
    first.mul_(3)
    return torch.cat((y, second), 1)


def of_whole_after_part(x: Tensor) -> Tensor:
    y = 2 * x
    part = y[:, 1]
    part.mul_(3)
    y.mul_(5)
    return part


def of_part_twice(x: Tensor) -> Tensor:
    y = 2 * x
    part = y[:, 1]
    part.mul_(3)
    part.mul_(5)
    return y


def of_what_reshape_returns(x: Tensor) -> Tensor:
    y = 2 * x
    y.reshape(-1).mul_(3)
    return y


def of_what_to_returns(x: Tensor) -> Tensor:
    y = 2 * x
    y.to(torch.float64).contiguous().mul_(3)
    return y


def of_elements_of_a_list(x: Tensor) -> Tensor:
    y = 2 * x
    first, _ = torch.unsafe_split(y, 2, 1)
    first.mul_(3)
    return y


def compared(x: Tensor) -> Tensor:
    return x * (2 * x).gt_(0)


def of_another_type(x: Tensor) -> Tensor:
    return x + torch.zeros(6, dtype=torch.float32).add_(torch.arange(6, dtype=torch.float64) / 3) * x


def of_values_that_are_conjugated(x: Tensor) -> Tensor:
    """PyTorch makes ``resolve_conj`` a copy, without which the elements cannot be viewed as numbers."""
    return torch.view_as_real(torch.fft.ihfft(of_view(x)).resolve_conj())


@pytest.mark.parametrize(
    "function",
    [
        of_view,
        of_values_that_are_conjugated,
        of_overlapping_parts,
        of_whole_after_part,
        of_part_twice,
        of_what_reshape_returns,
        of_what_to_returns,
        compared,
        of_another_type,
    ],
)
def test_a_change_that_others_see(function: Callable[[Tensor], Tensor]) -> None:
    assert_gradient_times_input(function, random(2, 4, 6))


def test_a_change_of_a_part_that_operators_do_not_declare_is_refused() -> None:
    with pytest.raises(CaptureError, match="memory in place that 'unsafe_split' may share"):
        fxlrp.compile(One(of_elements_of_a_list).eval(), LRP0, example_inputs=random(2, 4, 6), capture="export")


class Regions(nn.Module):
    """Regions of another precision, and of another mode of autograd."""

    def __init__(self, *, enabled: bool) -> None:
        super().__init__()
        self.enabled = enabled
        self.first, self.second = nn.Linear(6, 5, bias=False), nn.Linear(5, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.enabled):
            x = self.first(x)
        with torch.enable_grad():
            x = x.float()
        return self.second(x)


def assert_explained(model: nn.Module, x: Tensor, tolerance: float) -> fxlrp.Explainer:
    at = x.clone().requires_grad_()
    output = model(at)
    (gradient,) = torch.autograd.grad(output[:, 1].sum(), at)
    explain = fxlrp.compile(model, LRP0, example_inputs=x, capture="export")
    wanted = x * gradient
    relevance = explain(x, target=1)
    torch.testing.assert_close(relevance, wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()))
    return explain


@pytest.mark.usefixtures("once")
def test_regions_that_change_no_value_are_read_as_they_are() -> None:
    explain = assert_explained(Regions(enabled=False).eval(), torch.rand(2, 6), 1e-5)
    assert {"first", "second"} <= {node.name for node in explain.nodes}


@pytest.mark.parametrize("ambient", [False, True])
def test_a_region_of_another_precision(ambient: bool) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=ambient):
        explain = assert_explained(Regions(enabled=True).eval(), torch.rand(2, 6), 0.1)
    assert torch.bfloat16 in [node.kwargs.get("dtype") for node in explain.nodes]


class Modules(nn.Module):
    """Modules in a region of another precision, one of them twice and in a region of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.norm = nn.Linear(6, 6), nn.ReLU(inplace=True), nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.act(self.first(x))
            with torch.no_grad():
                y = self.first(x)
            x = self.norm(x + y)
        out: Tensor = self.head(x.float())
        return out


def test_modules_in_a_region_of_another_precision() -> None:
    pairs: Any = [(nn.Linear, rules.ZPlus()), ("norm", rules.Epsilon(0.5))]
    explain = fxlrp.compile(Modules().eval(), pairs, example_inputs=torch.rand(2, 6), capture="export")
    notes = {node.name: annotation(node) for node in explain.nodes}
    found = {name: note.rule for name, note in notes.items() if note is not None}
    layers = {name: rule for name, rule in found.items() if type(rule) is not rules.PassThrough}
    zplus = rules.ZPlus()
    sum_of_both = next(name for name in layers if name.startswith("add"))
    assert layers == {
        "first_linear": zplus,
        "first_linear_1": zplus,
        sum_of_both: rules.Epsilon(),
        "norm": rules.Epsilon(0.5),
        "head": zplus,
    }
    assert explain(torch.rand(2, 6), target=1, at="norm").shape == (2, 6)


def test_values_that_a_constant_fills_have_known_sizes() -> None:
    """The step of a view under the gradient is derived, which needs the sizes."""

    def forward(x: Tensor) -> Tensor:
        b = x.reshape(-1, 2, 3).clone()
        b.view(-1, 6)[:, ::3] = 0
        return b.sum(1)

    x = torch.rand(3, 6)
    explain = fxlrp.compile(One(forward).eval(), "gradient", example_inputs=x, capture="export")
    assert not explain(x, target=0).any()
    assert torch.equal(explain(x, target=1), x * torch.tensor([0.0, 1, 0, 0, 1, 0]))


def test_precision_around_a_region_without_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        explain = assert_explained(Regions(enabled=False).eval(), torch.rand(2, 6), 0.1)
    assert torch.bfloat16 in [node.kwargs.get("dtype") for node in explain.nodes]
