"""The facts that derived steps rely on hold on values: which functions are elementwise, and which are homogeneous."""

from __future__ import annotations

import pytest
import torch

from derived_calls import Dense, cases
from fxlrp.operation import Operation
from operation_settings import SAMPLED

OPERATIONS = SAMPLED.values()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.elementwise], ids=lambda each: each.name)
def test_elementwise_results_depend_on_one_element_of_each_operand(operation: Operation) -> None:
    for case in cases(operation):
        model = case.model()
        shape = model.result(model.values).shape
        dense = Dense.of(model, model.inputs())
        for x, jacobian in zip(dense.inputs, dense.jacobians, strict=True):
            own = torch.arange(x.numel()).reshape(x.shape).expand(shape).reshape(-1)
            # A complex result has two parts for each element.
            own = own.repeat_interleave(dense.z.numel() // own.numel())
            assert not bool(jacobian.scatter(1, own[:, None], 0.0).any()), str(case)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.homogeneous], ids=lambda each: each.name)
def test_homogeneous_results_double_with_the_operands(operation: Operation) -> None:
    for case in cases(operation):
        if len(case.dependent) < len(case.setting.places):
            continue
        model = case.model()
        inputs = model.inputs()
        doubled = model(*(2 * x for x in inputs))
        if len(case.dependent) == len(model.values) == len(operation.operands):
            torch.testing.assert_close(doubled, 2 * model(*inputs), rtol=1e-12, atol=1e-12)
