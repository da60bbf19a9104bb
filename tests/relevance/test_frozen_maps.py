"""What rules state to be frozen: with it, every operation is an affine map that has the value of the operation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fxlrp import presets
from fxlrp.operation import Family, Operation
from fxlrp.relevance import implementation
from fxlrp.relevance.held import Held
from fxlrp.rules.specs import Constant
from helpers import one_in
from operation_samples import call, samples, tensors_of
from operation_settings import SAMPLED

FAMILIES = (
    *(Family.LINEAR, Family.SUM, Family.PRODUCT, Family.MATMUL, Family.ACTIVATION, Family.MAX_POOL, Family.AVERAGE),
    *(Family.NORMALIZATION, Family.SHAPE, Family.RECURRENT),
)
# Their contributions are no multiples of the operands, so that they have no coefficients.
NO_MULTIPLES = ("vector_norm", "var", "std", "nan_to_num")
# Certificates run in double precision, where casts do not round.
CERTIFIED = [
    name for name, each in SAMPLED.items() if each.family in FAMILIES and name not in NO_MULTIPLES and not each.is_cast
]


def held(operation: Operation, arguments: Mapping[str, Any]) -> Iterator[tuple[Held, tuple[Tensor, ...]]]:
    """A call with each choice of operands that receive relevance."""
    lists = frozenset(name for name in operation.operands if isinstance(arguments[name], list | tuple))
    whole = Held(operation, operation.function, arguments, call(operation, arguments), (), lists)
    real = [index for index, each in enumerate(whole.operands) if isinstance(each, Tensor) and each.is_floating_point()]
    values = (*tensors_of(whole.out), *tensors_of(whole.operands))
    if not real or not all(bool(each.isfinite().all()) for each in values):
        return
    # A divisor is a weight, and the signal of a matrix product may be any of its factors.
    for receivers in {tuple(real), (real[0],)}:
        made = Held(operation, operation.function, arguments, whole.out, receivers, lists)
        yield made, tuple(made.operands[index] for index in receivers)


@pytest.mark.parametrize("name", list(one_in(5, CERTIFIED)))
def test_with_what_is_frozen_an_operation_is_an_affine_map(name: str) -> None:
    operation = SAMPLED[name]
    preset = presets.cplrp(0.0)
    rule = next((pair.rule for pair in preset.pairs if pair.selector == name), preset.default(operation.family))
    assert rule is not None and not isinstance(rule, Constant)
    how = implementation(operation, rule)
    assert how is not None
    generator, claims = torch.Generator().manual_seed(0), 0
    for arguments in _arguments(operation):
        for at, operands in held(operation, arguments):
            frozen = how.frozen if how.frozen is not None and len(at.receivers) >= how.frozen.least else None
            v = [torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in operands]
            points = (
                [torch.zeros_like(each) for each in v],
                operands,
                v,
                [a + b for a, b in zip(operands, v, strict=True)],
            )
            results = []
            for point in points:
                moved = dict(zip(at.receivers, point, strict=True))
                results.append(_real(at.at(moved) if frozen is None else frozen.forward(at, moved)))
            for zero, at_input, at_random, at_sum, value in zip(*results, _real(at.out), strict=True):
                torch.testing.assert_close(at_input, value, rtol=1e-11, atol=1e-11)
                torch.testing.assert_close(at_sum - at_input, at_random - zero, rtol=1e-11, atol=1e-11)
            claims += 1
    assert claims


def _arguments(operation: Operation) -> Iterator[Mapping[str, Any]]:
    """Arguments of samples, and the same with positive values, for which all functions are defined."""
    for sample in itertools.islice(samples(operation), 8):
        # A square root has no slope below zero, and so no coefficient at zero.
        if operation.name != "sqrt":
            yield sample.arguments
        yield tree_map_only(Tensor, _positive, dict(sample.arguments))


def _positive(value: Tensor) -> Tensor:
    return value.abs() + 0.25 if value.is_floating_point() else value


def _real(value: object) -> list[Tensor]:
    return [each for each in tensors_of(value) if each.is_floating_point()]
