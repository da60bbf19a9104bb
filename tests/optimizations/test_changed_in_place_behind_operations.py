"""A change in place behind an operation is followed or refused, whatever memory the operation's result shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import FxlrpError
from fxlrp.operation import Operation
from nets_around_operations import RULES, TOLERANCE, WRITTEN, Hidden, complaints, floating
from operation_samples import Setting, call_as_written, settings, tensors_of
from places import fixed

# Quick each, but many.
pytestmark = pytest.mark.slow


class Changed(nn.Module):
    """An operation on a hidden layer, one of whose two is then changed in place; both are read afterwards."""

    def __init__(self, operation: Operation, setting: Setting, *, result_changes: bool, transposed: bool) -> None:
        super().__init__()
        self.operation, self.setting = operation, setting
        self.result_changes, self.transposed = result_changes, transposed
        shape = setting.places[0].shape
        self.hidden = Hidden((*shape[:-2], shape[-1], shape[-2]) if transposed else shape)
        for index, place in enumerate(setting.places):
            self.register_buffer(f"constant{index}", fixed(*place.shape, scale=1.0))
        with torch.no_grad():
            values = self.values(self.hidden.inputs())
            result = self.result(values)
        self.picked = floating(result)
        found = [result[index] for index in self.picked] if self.picked else [result]
        self.head = nn.Linear(values.numel() + sum(tensor.numel() for tensor in found), 3).double()
        self.precision = max((tensor.dtype for tensor in found), key=lambda dtype: torch.finfo(dtype).eps)
        with torch.no_grad():
            self.head.weight.copy_(fixed(3, self.head.in_features))
            self.head.bias.copy_(fixed(3))
        self.eval()

    def values(self, x: Tensor) -> Tensor:
        """The hidden layer, plus something so that logarithms and the like are defined."""
        hidden: Tensor = self.hidden(x) + 0.5
        return hidden.transpose(-2, -1) if self.transposed else hidden

    def result(self, values: Tensor) -> Any:
        """What the operation gives."""
        filled = self.setting.fill(lambda index, _: getattr(self, f"constant{index}") if index else values)
        return call_as_written(self.operation, filled)

    def forward(self, x: Tensor) -> Tensor:
        values = self.values(x)
        result = self.result(values)
        found = [result[index] for index in self.picked] if self.picked else [result]
        changed = found[0] if self.result_changes else values
        changed.mul_(1.5)
        output: Tensor = self.head(torch.cat([tensor.double().reshape(1, -1) for tensor in (values, *found)], 1))
        return output


def shares_memory(model: Changed, x: Tensor) -> bool:
    """Whether the operation's result and what it reads are the same memory."""
    with torch.no_grad():
        values = model.values(x.clone())
        results = tensors_of(model.result(values))
    memory = values.untyped_storage().data_ptr()
    return any(result.untyped_storage().data_ptr() == memory for result in results)


@pytest.mark.sampled(4, "operation")
@pytest.mark.parametrize("transposed", (False, True), ids=("contiguous", "transposed"))
@pytest.mark.parametrize("result_changes", (True, False), ids=("result", "operand"))
@pytest.mark.parametrize("operation", WRITTEN, ids=lambda operation: operation.name)
def test_a_change_is_followed_or_refused(operation: Operation, result_changes: bool, transposed: bool) -> None:
    """With the first parameters, and with all that make the result share memory."""
    found = []
    for turn, setting in enumerate(setting for setting in settings(operation) if setting.places):
        if transposed and (len(setting.places[0].shape) < 2 or setting.places[0].contiguous):
            continue
        model = Changed(operation, setting, result_changes=result_changes, transposed=transposed)
        x = model.hidden.inputs()
        if turn > 0 and not shares_memory(model, x):
            continue
        with torch.no_grad():
            try:
                output = model(x.clone())
            except RuntimeError:
                # torch does not allow the change.
                continue
        if not bool(output.isfinite().all()):
            continue
        try:
            wrong = complaints(model, "epsilon", x, tolerance=TOLERANCE[model.precision])
        except FxlrpError:
            continue
        found += [f"{setting.name}: {one}" for one in wrong]
    assert not found, "\n".join(found)


def einsum_changed(h: Tensor) -> Tensor:
    y = torch.einsum("ij->ji", h)
    y.mul_(2.0)
    return h + 0.5 * y.t()


def einsum_assigned(h: Tensor) -> Tensor:
    y = torch.einsum("ij->ji", h)
    y[0] = 0.0
    return torch.cat([h, y.t()], 1)


def einsum_rectified(h: Tensor) -> Tensor:
    y = torch.einsum("ij->ji", h)
    y.sub_(0.5).relu_()
    return h - y.t()


def operand_of_einsum_changed(h: Tensor) -> Tensor:
    y = torch.einsum("ij->ji", h)
    h.mul_(3.0)
    return torch.cat([h, y.t()], 1)


def einsum_of_ones_changed(h: Tensor) -> Tensor:
    y = torch.einsum("ij->i", h[:, :1])
    y.mul_(-2.0)
    return torch.cat([h, y[:, None]], 1)


def product_by_einsum_changed(h: Tensor) -> Tensor:
    y = torch.einsum("ij,jk->ik", h, fixed(6, 5))
    y.mul_(2.0)
    return torch.cat([h, y], 1)


def reshaped_and_changed(h: Tensor) -> Tensor:
    y = h.reshape(2, 12)
    y.mul_(2.0)
    return torch.cat([h, y.reshape(4, 6)], 1)


def reshaped_copy_changed(h: Tensor) -> Tensor:
    y = h.t().reshape(2, 12)
    y.mul_(2.0)
    return torch.cat([h, y.reshape(4, 6)], 1)


def shuffled_and_changed(h: Tensor) -> Tensor:
    y = torch.channel_shuffle(h[None, :, :, None], 1)
    y.mul_(2.0)
    return torch.cat([h, y[0, :, :, 0]], 1)


def dropped_and_changed(h: Tensor) -> Tensor:
    y = torch.nn.functional.dropout(h, 0.5, training=False)
    y.mul_(2.0)
    return torch.cat([h, y], 1)


def cast_and_changed(h: Tensor) -> Tensor:
    y = h.to(torch.float64)
    y.mul_(2.0)
    return torch.cat([h, y], 1)


def joined_and_changed(h: Tensor) -> Tensor:
    y = torch.cat([h], 1)
    y.mul_(2.0)
    return torch.cat([h, y], 1)


PIECEWISE_LINEAR: list[Callable[[Tensor], Tensor]] = [
    einsum_changed,
    einsum_assigned,
    einsum_rectified,
    operand_of_einsum_changed,
    einsum_of_ones_changed,
    product_by_einsum_changed,
    reshaped_and_changed,
    reshaped_copy_changed,
    shuffled_and_changed,
    dropped_and_changed,
    cast_and_changed,
    joined_and_changed,
]


class Net(nn.Module):
    """``head(function(relu(first(x))))``."""

    def __init__(self, function: Callable[[Tensor], Tensor], relu: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.hidden, self.function, self.relu = Hidden((4, 6), rectify=False), function, relu
        with torch.no_grad():
            width = function(self.hidden(self.hidden.inputs())).shape[1]
        self.head = nn.Linear(width, 3).double()
        with torch.no_grad():
            self.head.weight.copy_(fixed(3, width))
            self.head.bias.copy_(fixed(3))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.function(self.relu(self.hidden(x))))
        return output


@pytest.mark.parametrize("capture", ("symbolic", "export"))
@pytest.mark.parametrize("function", PIECEWISE_LINEAR)
def test_lrp_0_is_the_gradient_times_the_input(function: Callable[[Tensor], Tensor], capture: Any) -> None:
    model = Net(function)
    x = model.hidden.inputs().requires_grad_(True)
    # Autograd cannot follow a change of a ReLU's result, which it keeps; a clamp keeps its operand instead.
    output = Net(function, lambda z: z.clamp(min=0))(x)
    (gradient,) = torch.autograd.grad(output.sum(), x)
    rules, example = fxlrp.presets.epsilon(0.0), x.detach().clone()
    try:
        explain = fxlrp.compile(model, rules, capture=capture, example_inputs=example)
    except FxlrpError:
        return
    relevance = explain(example, seed=lambda found: found)
    torch.testing.assert_close(relevance, (x * gradient).detach(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("function", PIECEWISE_LINEAR)
def test_optimizations_change_nothing(function: Callable[[Tensor], Tensor], rules: str) -> None:
    model = Net(function)
    x = model.hidden.inputs()
    try:
        found = complaints(model, RULES[rules], x)
    except FxlrpError:
        return
    assert not found, found
