"""Calls of operations whose relevance is derived, and what it must be, from dense Jacobians of the plain functions."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from fxlrp.operation import Family, Operation
from operation_samples import Setting, call_as_written, mixed, settings, tensors_of
from operation_settings import SAMPLED
from places import Place

DERIVED_PRODUCTS = tuple("tensordot inner kron cross linalg_cross linalg_multi_dot chain_matmul".split())
DERIVED = (Family.TRANSFORM, Family.SELECTION, Family.FUNCTION)
# No model can write it: it is a part of cross_entropy.
UNWRITTEN = ("expected_log_loss",)


def _scatter(input: Tensor, dim: int, index: Tensor, src: Any, value: Any, reduce: str | None) -> Tensor:
    how = {} if reduce is None else {"reduce": reduce}
    return torch.scatter(input, dim, index, value if src is None else src, **how)  # type: ignore[call-overload, no-any-return]


def _pooling_with_indices(n: int) -> Callable[..., Any]:
    return lambda return_indices, **given: getattr(F, f"max_pool{n}d")(**given, return_indices=True)


# Calls of torch for operations whose canonical function is not torch's, and of fxlrp's own functions.
AS_WRITTEN: Mapping[str, Callable[..., Any]] = {
    "power": torch.pow,
    "scatter": _scatter,
    "istft": torch.istft,
    "affine_grid": F.affine_grid,
    "scatter_product": lambda source, **given: torch.scatter_reduce(src=source, reduce="prod", **given),
    "index_product": lambda **given: torch.index_reduce(reduce="prod", **given),
    "cov": torch.cov,
    "linalg_matrix_norm": lambda A, ord, dim, keepdim, dtype: torch.linalg.matrix_norm(A, ord, dim, keepdim),
    "corrcoef": torch.corrcoef,
    "chain_matmul": lambda tensors: torch.chain_matmul(*tensors),
    "broadcast_tensors": lambda tensors: torch.broadcast_tensors(*tensors),
    "block_diag": lambda tensors: torch.block_diag(*tensors),
    "meshgrid": lambda tensors, indexing: torch.meshgrid(*tensors, indexing=indexing),
    "median_of": torch.median,
    "nanmedian_of": torch.nanmedian,
    **{f"max_pool{n}d_with_indices": _pooling_with_indices(n) for n in (1, 2, 3)},
}


class Call(nn.Module):
    """A call of one operation on real inputs, with all results as one vector of real numbers.

    Complex values are given and returned as their real and imaginary parts.
    """

    def __init__(self, operation: Operation, setting: Setting, dependent: tuple[int, ...]) -> None:
        super().__init__()
        self.operation, self.setting, self.dependent = operation, setting, dependent
        self.values = [mixed(place, index) for index, place in enumerate(setting.places)]
        for index, value in enumerate(self.values):
            self.register_buffer(f"value{index}", value)
        self.several = not isinstance(self.result(self.values), Tensor)
        results = tensors_of(self.result(self.values))
        self.picked = [index for index, each in enumerate(results) if each.is_floating_point() or each.is_complex()]
        self.are_complex = [results[index].is_complex() for index in self.picked]

    def inputs(self) -> tuple[Tensor, ...]:
        """The values that the call depends on."""
        values = [self.values[index] for index in self.dependent]
        return tuple(torch.view_as_real(each).clone() if each.is_complex() else each.clone() for each in values)

    def result(self, values: list[Tensor]) -> Any:
        arguments = self.setting.fill(lambda index, _: values[index])
        written = AS_WRITTEN.get(self.operation.name)
        return call_as_written(self.operation, arguments) if written is None else written(**arguments)

    def forward(self, *inputs: Tensor) -> Tensor:
        given = dict(zip(self.dependent, inputs, strict=True))
        values = []
        for index in range(len(self.values)):
            value = given.get(index, getattr(self, f"value{index}"))
            is_complex = index in given and self.values[index].is_complex()
            values.append(torch.view_as_complex(value) if is_complex else value)
        result = self.result(values)
        results = [result[index] for index in self.picked] if self.several else [result]
        pairs = zip(results, self.are_complex, strict=True)
        flat = [
            (torch.view_as_real(each.resolve_conj()) if is_complex else each).reshape(-1) for each, is_complex in pairs
        ]
        return torch.cat(flat) if len(flat) > 1 else flat[0]


@dataclass(frozen=True)
class Case:
    """A call, and the positions of the values that are inputs."""

    operation: Operation
    setting: Setting
    dependent: tuple[int, ...]

    def __str__(self) -> str:
        """The name of the test."""
        return f"{self.operation.name}-{self.setting.name}-{self.dependent}".replace(" ", "")[:120]

    def model(self) -> Call:
        """The call as a model."""
        with warnings.catch_warnings():
            # Torch deprecates some functions and defaults.
            warnings.simplefilter("ignore")
            return Call(self.operation, self.setting, self.dependent).eval()


def operations() -> list[Operation]:
    """All operations whose relevance is derived by default."""
    return [
        operation
        for name, operation in SAMPLED.items()
        if (operation.family in DERIVED or name in DERIVED_PRODUCTS) and name not in UNWRITTEN
    ]


def is_left_out(operation: Operation, setting: Setting) -> bool:
    """Whether a call needs an oracle of its own.

    The mean or the sum of elementwise losses is two operations, a model may not contain NaN, torch does not
    differentiate a scatter that adds, and values that are put at indices without being added are an assignment.
    """
    reduced = operation.elementwise and setting.arguments.get("reduction", "none") != "none"
    adds = operation.name == "scatter" and setting.arguments["reduce"] is not None
    assigns = operation.name == "index_put" and not setting.arguments["accumulate"]
    return reduced or adds or assigns or any(place.special for place in setting.places)


def cases(operation: Operation) -> Iterator[Case]:
    """Every setting with all values as inputs, and the first ones with each value alone."""
    chosen = [each for each in settings(operation) if not is_left_out(operation, each)]
    for number, setting in enumerate(chosen):
        operands = positions_of_operands(operation, setting)
        yield Case(operation, setting, operands)
        if len(operands) > 1 and number == 0:
            yield from (Case(operation, setting, (position,)) for position in operands)


def positions_of_operands(operation: Operation, setting: Setting) -> tuple[int, ...]:
    """The positions of the places that stand for operands."""
    count = itertools.count()
    numbered = setting.fill(lambda *_: _Numbered(next(count)))
    return tuple(each.position for each in operation.operands_among(numbered) if isinstance(each, _Numbered))


@dataclass(frozen=True)
class _Numbered:
    position: int


def relevance_of(
    model: nn.Module, inputs: tuple[Tensor, ...], seed: Tensor, rules: Any, **options: Any
) -> list[Tensor]:
    """The relevance of every input."""
    found = fxlrp.compile(model, rules, example_inputs=inputs, **options)(*(x.clone() for x in inputs), seed=seed)
    return list(found.values()) if isinstance(found, dict) else list(found) if isinstance(found, tuple) else [found]


@dataclass(frozen=True)
class Dense:
    """The plain function at one point.

    Args:
        inputs: The inputs.
        z: The results, as a vector.
        jacobians: For each input the derivatives of all results, ``(results, elements)``.
    """

    inputs: tuple[Tensor, ...]
    z: Tensor
    jacobians: tuple[Tensor, ...]

    @staticmethod
    def of(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Dense:
        """Differentiate a function by autograd."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            z = function(*inputs).detach()
            found = torch.autograd.functional.jacobian(function, inputs)
        return Dense(inputs, z, tuple(j.reshape(z.numel(), x.numel()) for j, x in zip(found, inputs, strict=True)))

    def pulled_back(self, u: Tensor) -> list[Tensor]:
        """``J^T u`` for each input."""
        return [(j.T @ u).reshape(x.shape) for j, x in zip(self.jacobians, self.inputs, strict=True)]

    def in_proportion(self, relevance: Tensor, total: Tensor) -> list[Tensor]:
        """``x * J^T(R / total)``, where ``0 / 0`` is 0."""
        return [x * back for x, back in zip(self.inputs, self.pulled_back(over(relevance, total)), strict=True)]

    @property
    def linear_part(self) -> Tensor:
        """``J x``, the sum over all inputs."""
        products = [j @ x.reshape(-1) for j, x in zip(self.jacobians, self.inputs, strict=True)]
        return torch.stack(products).sum(0)


def over(relevance: Tensor, total: Tensor) -> Tensor:
    """``R / z``, by the convention of LRP-0 for a total of zero: it is not divided."""
    return relevance / torch.where(total == 0, 1.0, total)


def summed_to(relevance: Tensor, x: Tensor, z: Tensor) -> Tensor:
    """The relevance of every element of the result, summed over the elements that an operand was expanded to."""
    if z.is_complex():
        return relevance.reshape(*z.shape, 2).sum(-1).sum_to_size(x.shape)
    return relevance.reshape(z.shape).sum_to_size(x.shape)


def place_count(places: tuple[Place, ...]) -> int:
    """The number of values."""
    return sum(torch.Size(place.shape).numel() for place in places)
