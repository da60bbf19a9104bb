"""The same graph on a CUDA device."""

from __future__ import annotations

import copy

import pytest

import fxlrp
import zoo
from fxlrp.errors import InputError
from oracles import assert_relevance

pytestmark = pytest.mark.cuda

PRESETS = {
    "epsilon": fxlrp.presets.epsilon(),
    "epsilon_plus_flat": fxlrp.presets.epsilon_plus_flat(),
    "epsilon_gamma_box": fxlrp.presets.epsilon_gamma_box(low=-3.0, high=3.0),
    "epsilon_alpha2_beta1": fxlrp.presets.epsilon_alpha2_beta1(),
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", sorted(zoo.SMALL_NETS))
def test_same_relevance_as_on_the_cpu(name: str, preset: str) -> None:
    model, inputs = zoo.small_net(name)
    on_cpu = fxlrp.compile(model, rules=PRESETS[preset], example_inputs=inputs)(*inputs)
    device_inputs = tuple(x.cuda() for x in inputs)
    on_device = fxlrp.compile(copy.deepcopy(model).cuda(), rules=PRESETS[preset], example_inputs=inputs)(*device_inputs)
    pairs = [(on_device, on_cpu)] if len(inputs) == 1 else zip(on_device, on_cpu, strict=True)
    for device_relevance, cpu_relevance in pairs:
        assert device_relevance.device.type == "cuda"
        assert_relevance(device_relevance.cpu(), cpu_relevance, 1e-9)


def test_an_explainer_moves_with_its_model() -> None:
    model, (x,) = zoo.small_net("residual")
    explain = fxlrp.compile(model)
    expected = explain(x)
    explain.cuda()
    assert_relevance(explain(x.cuda()).cpu(), expected, 1e-9)
    with pytest.raises(InputError, match="cpu"):
        explain(x)
    assert_relevance(explain.cpu()(x), expected, 1e-9)
