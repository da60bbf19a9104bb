"""Survey of PyTorch's operator database: which differentiable operators are explained, and how.

The database is ``torch.testing._internal.common_methods_invocations.op_db``. Every entry that is differentiable and has
a float64 sample becomes a model of one call, whose first argument is explained.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxlrp
from fxlrp.errors import FxlrpError
from fxlrp.extras import require
from fxlrp.rules.presets import Rules

_SAMPLES = 40
State = Literal["explained", "refused", "not finite", "error"]


@dataclass(frozen=True)
class Entry:
    """An operator of the database, with a sample of its arguments.

    Args:
        name: The name in the database, with the variant.
        model: Calls the operator, with the explained tensors as its arguments.
        tensors: The explained tensors.
    """

    name: str
    model: nn.Module
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class OperatorResult:
    """The survey's result for an operator.

    Args:
        name: The name of the entry.
        state: Whether the operator is explained, refused by an error of fxlrp, explained by numbers that are not
            finite, or ends in another error.
        homogeneous: Whether the operator is homogeneous of degree one at the sample.
        deviation: For a homogeneous operator, the largest difference from gradient times input, relative to the largest
            element; NaN otherwise.
        problem: The reason, if the operator is not explained.
        relevance: The relevance of the explained tensors.
    """

    name: str
    state: State
    homogeneous: bool = False
    deviation: float = math.nan
    problem: str = ""
    relevance: tuple[Tensor, ...] = ()

    @property
    def is_gradient_times_input(self) -> bool:
        """Whether relevance equals gradient times input within one millionth."""
        return self.deviation <= 1e-6


class _OneCall(nn.Module):
    """A model that calls one operator and returns one of its results, with complex numbers as pairs."""

    def __init__(self, function: Callable[..., Any], index: int | None, is_complex: bool) -> None:
        super().__init__()
        self.function, self.index, self.is_complex = function, index, is_complex

    def forward(self, *tensors: Tensor) -> Any:
        result = self.function(*tensors)
        result = result if self.index is None else result[self.index]
        return torch.view_as_real(torch.resolve_conj(result)) if self.is_complex else result


def entries() -> Iterator[Entry]:
    """The differentiable entries of the database that have a sample with finite results.

    Raises:
        ImportError: ``expecttest`` is not installed, which the database needs.
    """
    require("expecttest", "operators")
    from torch.testing._internal.common_methods_invocations import op_db

    for operator in op_db:
        if torch.float64 in operator.supported_dtypes("cpu") and operator.supports_autograd:
            found = _entry(operator)
            if found is not None:
                yield found


def _entry(operator: Any) -> Entry | None:
    name = "_".join(filter(None, (operator.name.replace(".", "_"), operator.variant_test_name)))
    samples = operator.sample_inputs("cpu", torch.float64, requires_grad=True)
    for sample in itertools.islice(samples, _SAMPLES):
        leaves, structure = pytree.tree_flatten(sample.input)
        positions = [index for index, leaf in enumerate(leaves) if _is_real(leaf)]
        if not positions or any(leaves[index].numel() < 2 for index in positions):
            continue
        function = _call(operator.op, leaves, structure, positions, sample)
        tensors = tuple(leaves[index].detach().clone() for index in positions)
        try:
            result = function(*(tensor.clone().requires_grad_() for tensor in tensors))
        except (RuntimeError, ValueError):  # a sample of an error that the operator raises
            continue
        results = pytree.tree_leaves(result)
        indices = [index for index, each in enumerate(results) if _is_differentiable(each)]
        if indices and all(_is_finite(results[index]) for index in indices):
            index = None if isinstance(result, Tensor) else indices[0]
            return Entry(name, _OneCall(function, index, results[indices[0]].is_complex()).eval(), tensors)
    return None


def _call(
    operator: Callable[..., Any], leaves: list[Any], structure: Any, positions: list[int], sample: Any
) -> Callable[..., Any]:
    """The call of an operator as a function of the explained tensors; all other arguments are constants."""
    constants = pytree.tree_map_only(Tensor, Tensor.detach, leaves)
    args, kwargs = pytree.tree_map_only(Tensor, Tensor.detach, (sample.args, sample.kwargs))

    def function(*tensors: Tensor) -> Any:
        given = list(constants)
        for index, tensor in zip(positions, tensors, strict=True):
            given[index] = tensor
        return operator(pytree.tree_unflatten(given, structure), *args, **kwargs)

    return function


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and value.numel() > 0


def _is_finite(value: Tensor) -> bool:
    dense = value if value.layout == torch.strided else value.to_dense()
    return bool(torch.isfinite(dense).all())


def explained(entry: Entry, rules: Rules, capture: Literal["auto", "symbolic", "export"] = "auto") -> OperatorResult:
    """Explain the result of an operator, with the result itself as the initial relevance."""
    try:
        explain = fxlrp.compile(entry.model, rules, example_inputs=entry.tensors, capture=capture)
        relevance = tuple(pytree.tree_leaves(explain(*entry.tensors, seed=lambda output: output)))
    except FxlrpError as error:
        return OperatorResult(entry.name, "refused", problem=f"{type(error).__name__}: {error}")
    except Exception as error:
        return OperatorResult(entry.name, "error", problem=f"{type(error).__name__}: {error}")
    result = _compared(entry, OperatorResult(entry.name, "explained", relevance=relevance))
    return result if all(map(_is_finite, relevance)) else replace(result, state="not finite")


def _compared(entry: Entry, result: OperatorResult) -> OperatorResult:
    """Compare the relevance of a homogeneous operator with gradient times input."""
    leaves = [tensor.clone().requires_grad_() for tensor in entry.tensors]
    output = entry.model(*leaves)
    with torch.no_grad():
        doubled = entry.model(*(2 * tensor for tensor in entry.tensors))
    scale = float(output.abs().max())
    if scale == 0 or not torch.allclose(doubled, 2 * output, rtol=1e-9, atol=1e-12 * scale):
        return result
    gradients = torch.autograd.grad(output.sum(), leaves, allow_unused=True, materialize_grads=True)
    wanted = [tensor * gradient for tensor, gradient in zip(entry.tensors, gradients, strict=True)]
    if len(result.relevance) != len(wanted):
        return replace(result, homogeneous=True, deviation=math.inf)
    largest = max(float(each.abs().max()) for each in wanted) or 1.0
    pairs = zip(result.relevance, wanted, strict=True)
    deviation = max(float((relevance - each).abs().max()) / largest for relevance, each in pairs)
    return replace(result, homogeneous=True, deviation=deviation)
