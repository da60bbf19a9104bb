"""Nets with one operation between a ReLU and the output, and the rules with which they are explained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import rules
from fxlrp.operation import Family, Operation
from operation_samples import Setting, call_as_written, settings, tensors_of
from operation_settings import SAMPLED
from places import Place, fixed

# What only passes write, and models do not.
OF_PASSES = ("expect_dims", "mask_scores", "sum_bags")
# Their steps are derived: tests/relevance/test_derived_steps.py compares them with and without optimizations.
DERIVED = (Family.TRANSFORM, Family.SELECTION, Family.FUNCTION, Family.MATRIX_FUNCTION)
WRITTEN: list[Operation] = [
    operation
    for operation in SAMPLED.values()
    if operation.family not in (Family.NO_RELEVANCE, *DERIVED)
    and operation.name not in OF_PASSES
    # Their results are not real numbers.
    and not (operation.makes_integers and not operation.keeps_arguments)
    and all(place.domain == "any" for setting in settings(operation) for place in setting.places)
]

# Where the values of each place come from: the hidden layer, a function of it, or a constant.
Sources = tuple[str, ...]


def sources(setting: Setting) -> list[Sources]:
    """Each place in turn reads the hidden layer, the others being constants or functions of it."""
    places = setting.places
    chosen: list[Sources] = [("hidden",)] if len(places) == 1 else []
    for position in range(len(places) if len(places) > 1 else 0):
        # Of many places the first alone has constants beside it, to save time.
        for other in ("constant", "derived") if len(places) == 2 or position == 0 else ("derived",):
            chosen.append(tuple("hidden" if index == position else other for index in range(len(places))))
    if len(places) > 1 and len({place.shape for place in places}) == 1:
        chosen.append(("hidden",) * len(places))
    return chosen


class Hidden(nn.Module):
    """A linear map of a small net, and the values (after a ReLU) that it gives in a shape asked for."""

    def __init__(self, shape: tuple[int, ...], *, stem: bool = False, rectify: bool = True) -> None:
        super().__init__()
        width = shape[-1] + 2
        self.shape, self.rectify = shape, rectify
        self.stem = nn.Linear(width, width) if stem else None
        self.first = nn.Linear(width, shape[-1])
        generator = torch.Generator().manual_seed(len(shape) + sum(shape))
        with torch.no_grad():
            for parameter in self.double().parameters():
                scale = width**-0.5 if parameter.dim() > 1 else 0.3
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale)
            # Whatever the random numbers, there are both signs before the ReLU.
            before = self.before_relu(self.inputs()).flatten(0, -2)
            if shape[-1] == 1:
                self.first.bias.sub_(before.mean(0))
            else:
                signs = (1 - 2 * (torch.arange(shape[-1]) % 2)) * before[0].sign()
                self.first.weight.mul_(signs[:, None])
                self.first.bias.mul_(signs)

    def before_relu(self, x: Tensor) -> Tensor:
        """What the linear map gives."""
        result: Tensor = self.first(x if self.stem is None else torch.relu(self.stem(x)))
        return result

    def forward(self, x: Tensor) -> Tensor:
        x = self.before_relu(x)
        if self.rectify:
            x = torch.relu(x)
        return x[0] if len(self.shape) == 1 else x

    def inputs(self) -> Tensor:
        """Values of both signs and some zeros."""
        shape = (1, *self.shape) if len(self.shape) == 1 else self.shape
        x = fixed(*shape[:-1], self.first.in_features if self.stem is None else self.stem.in_features, scale=2.0)
        x.view(-1)[::7] = 0.0
        return x

    def silencing_inputs(self) -> Tensor:
        """Inputs for which the first part of the hidden layer is negative before the ReLU."""
        assert self.stem is None
        x, weight, bias = self.inputs(), self.first.weight.detach(), self.first.bias.detach()
        x[0] = torch.linalg.pinv(weight) @ (-1.0 - bias)
        return x


class Between(nn.Module):
    """``head(operation(relu(first(x))))`` for any operation."""

    def __init__(
        self,
        operation: Operation,
        setting: Setting,
        chosen: Sources,
        *,
        stem: bool = False,
        rectify: bool = True,
        rectify_after: bool = False,
    ) -> None:
        super().__init__()
        self.operation, self.setting, self.chosen, self.rectify_after = operation, setting, chosen, rectify_after
        places = setting.places
        shape = places[chosen.index("hidden")].shape
        self.hidden = Hidden(shape, stem=stem, rectify=rectify)
        for index, place in enumerate(places):
            self.register_buffer(f"constant{index}", fixed(*place.shape, scale=1.0))
            elements = torch.arange(math.prod(place.shape)) % math.prod(shape)
            self.register_buffer(f"elements{index}", elements.reshape(place.shape))
        with torch.no_grad():
            result = self.result(self.hidden(self.hidden.inputs()))
            # Not everything is defined at zero, and some masks are for a softmax.
            self.shift = 0.0 if _finite(result) else 0.5
            result = self.result(self.hidden(self.hidden.inputs()) + self.shift)
        self.soften = not _finite(result)
        self.picked = floating(result)
        tensors = [result] if isinstance(result, Tensor) else [result[index] for index in self.picked]
        self.precision = max((tensor.dtype for tensor in tensors), key=lambda dtype: torch.finfo(dtype).eps)
        self.batch = shape[0] if all(tensor.numel() % shape[0] == 0 for tensor in tensors) else 1
        width = sum(tensor.numel() for tensor in tensors) // self.batch
        self.head = nn.Linear(width, 3).double()
        with torch.no_grad():
            self.head.weight.copy_(fixed(3, width, scale=width**-0.5))
            self.head.bias.copy_(fixed(3))
        self.eval()

    def result(self, hidden: Tensor) -> Any:
        """What the operation gives."""

        def values(index: int, place: Place) -> Any:
            source = self.chosen[index]
            if source == "constant":
                return getattr(self, f"constant{index}")
            if source == "hidden":
                return hidden
            derived = 1.0 - 0.5 * hidden
            return derived if place.shape == self.hidden.shape else derived.flatten()[getattr(self, f"elements{index}")]

        return call_as_written(self.operation, self.setting.fill(values))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden(x)
        if self.shift:
            hidden = hidden + self.shift
        result = self.result(hidden)
        found = [result[index] for index in self.picked] if self.picked else [result]
        if self.soften:
            found = [torch.softmax(tensor, -1) for tensor in found]
        if self.rectify_after:
            found = [torch.relu(tensor) for tensor in found]
        if self.precision != torch.float64:
            found = [tensor.double() for tensor in found]
        found = [tensor.reshape(self.batch, -1) for tensor in found]
        output: Tensor = self.head(torch.cat(found, 1) if len(found) > 1 else found[0])
        return output


def _finite(result: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors_of(result))


def floating(result: Any) -> list[int]:
    """Which items of a tuple are floating-point tensors; none of a tensor."""
    items = [] if isinstance(result, Tensor) else result
    return [index for index, item in enumerate(items) if isinstance(item, Tensor) and item.is_floating_point()]


GAMMA = rules.Gamma(0.25)
RULES: Mapping[str, Any] = {
    "gamma": [("*first", GAMMA)],
    "gamma behind a box": fxlrp.presets.epsilon_gamma_box(-4.0, 4.0).override([("*first", GAMMA), ("head", GAMMA)]),
    "epsilon": "epsilon",
}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 2e-1}


class Explained(NamedTuple):
    """An explanation, and the output that it started from."""

    output: Tensor
    relevance: Tensor


def explained(explainer: fxlrp.Explainer, x: Tensor) -> Explained:
    """The relevance of ``x`` for all outputs, each with a weight of its own."""
    seen: list[Tensor] = []

    def seed(output: Tensor) -> Tensor:
        seen.append(output.clone())
        return output * torch.linspace(-0.5, 2.0, output.shape[-1], dtype=output.dtype)

    relevance = explainer(x.clone(), seed=seed)
    assert isinstance(relevance, Tensor)
    return Explained(seen[0], relevance)


def complaints(model: nn.Module, rules: Any, *inputs: Tensor, tolerance: float = 1e-9, **options: Any) -> list[str]:
    """What is wrong with explanations: not the model's output, not finite, or changed by optimizations."""
    options = {"capture": "symbolic", **options}
    plain, fast = (fxlrp.compile(model, rules, optimize=optimize, **options) for optimize in (False, True))
    with torch.no_grad():
        wanted = [model(x.clone()) for x in inputs]
    pairs = zip(inputs, wanted, strict=True)
    found = [_complaint(output, explained(plain, x), explained(fast, x), tolerance) for x, output in pairs]
    return [f"inputs {index}: {complaint}" for index, complaint in enumerate(found) if complaint]


def _complaint(wanted: Tensor, plain: Explained, fast: Explained, tolerance: float) -> str | None:
    for name, found in (("plain", plain), ("optimized", fast)):
        error = float((found.output - wanted).abs().max())
        if not error <= tolerance * max(1.0, float(wanted.abs().max())):
            return f"the {name} program's output is not the model's: {error:.3g} away"
        if not bool(found.relevance.isfinite().all()):
            return f"the {name} relevance is not finite"
    # Where all of it cancels, what is left is rounding.
    scale = max(float(plain.relevance.abs().max()), 1e-6 * float(wanted.abs().max()))
    error = float((fast.relevance - plain.relevance).abs().max()) / scale
    sums = f"largest {float(plain.relevance.abs().max()):.3g} and {float(fast.relevance.abs().max()):.3g}"
    return None if error <= tolerance else f"optimizations change the relevance by {error:.3g} of the largest ({sums})"
