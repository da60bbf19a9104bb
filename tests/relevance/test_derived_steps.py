"""Relevance of operations whose steps are derived by tracing, against dense Jacobians of the plain functions."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from derived_calls import Case, Dense, cases, operations, relevance_of, summed_to
from fxlrp import presets, rules
from fxlrp.operation import Family
from helpers import some_of_each
from oracles import One, assert_relevance, random

# What does not work yet, by operation, and by the inputs or the setting if the rest works.
_DATA = "torch looks at values to differentiate it, so the step cannot be traced"
KNOWN = {"ctc_loss": _DATA}


def is_known(case: Case) -> bool:
    """Whether a call of an operation in ``KNOWN`` fails."""
    return case.operation.name in KNOWN


def param(case: Case, name: str, *, slow: bool = False) -> Any:
    known = [pytest.mark.xfail(strict=True, reason=KNOWN[case.operation.name])] if is_known(case) else []
    return pytest.param(case, id=name, marks=[*known, *([pytest.mark.slow] if slow else [])])


def all_cases() -> Iterator[Any]:
    """The first setting of every third operation, and, slow, the others."""
    for index, operation in enumerate(operations()):
        for number, case in enumerate(cases(operation)):
            yield param(case, str(case), slow=index % 3 > 0 or number > 0)


def expected(case: Case, inputs: tuple[Tensor, ...], seed: Tensor) -> list[Tensor]:
    """What LRP-0 must give, by family."""
    operation, dense = case.operation, Dense.of(case.model(), inputs)
    if operation.family is Family.SELECTION:
        return dense.pulled_back(seed)
    if operation.family is Family.MATMUL:
        return [each / len(inputs) for each in dense.in_proportion(seed, dense.z)]
    if operation.family is Family.TRANSFORM or operation.homogeneous:
        return dense.in_proportion(seed, dense.z)
    if operation.elementwise and len(inputs) == 1:
        result = case.model().result(case.model().values)
        return [summed_to(seed, inputs[0], result)]
    return dense.in_proportion(seed, dense.linear_part)


def assert_all(case: Case, actual: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(actual) == len(wanted)
    # Casts go through fewer digits on the way.
    tolerance = {"cfloat": 1e-6, "chalf": 1e-2}.get(case.operation.name, 1e-9)
    for each, other in zip(actual, wanted, strict=True):
        assert_relevance(each, other, tolerance)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", list(some_of_each(8, all_cases())))
def test_relevance(case: Case) -> None:
    """With and without optimizations."""
    model = case.model()
    inputs = model.inputs()
    seed = random(*model(*inputs).shape, seed=5)
    wanted = expected(case, inputs, seed)
    for optimize in (True, False):
        found = relevance_of(model, inputs, seed, presets.epsilon(0.0), capture="symbolic", optimize=optimize)
        assert_all(case, found, wanted)


def parts_as_channels(x: Tensor) -> Tensor:
    return torch.view_as_real(torch.fft.rfft(x)).permute(0, 2, 1).flatten(1)


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("rules", [presets.epsilon(0.0), presets.gradient()], ids=["epsilon", "gradient"])
def test_relevance_of_real_and_imaginary_parts_in_another_layout(rules: Any, optimize: bool) -> None:
    """``view_as_complex``, which is the transposed map, takes contiguous pairs only."""
    x = random(2, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(parts_as_channels(x)[:, 7].sum(), x)
    explain = fxlrp.compile(One(parts_as_channels).eval(), rules, example_inputs=x.detach(), optimize=optimize)
    assert_relevance(explain(x.detach(), target=7), x.detach() * gradient, 1e-10)


def test_sizes_are_checked_before_the_total() -> None:
    """The sum ``J x`` reads no relevance; for other sizes than those of the examples it is derived again."""
    model = nn.Sequential(nn.LocalResponseNorm(2, alpha=0.5), nn.Flatten(), nn.Linear(144, 3)).double().eval()
    x = random(3, 4, 6, 6)
    # The gradient of a quotient reaches its denominator.
    pairs = presets.epsilon(0.01).override([("div", rules.Gradient())])
    whole = fxlrp.compile(model, pairs, example_inputs=x)(x, target=1)
    explain = fxlrp.compile(model, pairs, example_inputs=x[:2])
    assert_relevance(explain(x, target=1), whole, 1e-12)
    assert_relevance(explain(x[:1], target=1), whole[:1], 1e-12)


def test_warnings_are_of_torch() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        case = next(cases(next(each for each in operations() if each.name == "index_add")))
        model = case.model()
        relevance_of(model, model.inputs(), random(*model(*model.inputs()).shape), "epsilon")


def of_several_elements() -> Iterator[Any]:
    """The calls of elementwise functions with several operands."""
    for operation in operations():
        if operation.elementwise:
            yield from (pytest.param(each, id=str(each)) for each in cases(operation) if len(each.dependent) > 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", list(of_several_elements()))
def test_operands_of_zero(case: Case) -> None:
    """They have no relevance, and that of the others is finite, even if a derivative there is infinite or undefined."""
    model = case.model()
    given = model.inputs()
    explainers = [fxlrp.compile(model, "epsilon", example_inputs=given, optimize=each) for each in (True, False)]
    for zeros in itertools.product((False, True), repeat=len(given)):
        inputs = [torch.zeros_like(x) if is_zero else x for x, is_zero in zip(given, zeros, strict=True)]
        value = model(*inputs)
        if not value.isfinite().all():
            continue
        for explain in explainers:
            found = explain(*inputs, seed=random(*value.shape))
            for relevance, is_zero in zip(found.values(), zeros, strict=True):
                assert bool(relevance.isfinite().all())
                assert not (is_zero and relevance.any())
