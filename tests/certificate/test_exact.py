"""Certificates of exact explanations, against the model itself, gradients, and twins whose constants are detached."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import zoo
from certified import NAMES, Excited, Recurrent, excited_twin, gru_twin, lstm_twin, net
from detaching import Style, Transformer, inputs_of, made, twin
from fxlrp import presets
from fxlrp.certificate.certificate import Certificate
from helpers import one_in
from oracles import random, randomize

EXACT = presets.cplrp(0.0)
TOLERANCE = 1e-12


@pytest.mark.parametrize("name", list(one_in(3, NAMES)))
def test_inputs_and_constants_rebuild_the_output_of_every_family(name: str) -> None:
    model, inputs, target, options = net(name)
    certificate = fxlrp.compile(model, EXACT, **options).certify(*inputs, target=target)
    output = model(*inputs)
    index = target if isinstance(target, tuple) else (target,)
    expected = output[(slice(None), *index)].reshape(len(output), -1).sum(1)
    for sample, wanted in zip(certificate.samples, expected.tolist(), strict=True):
        assert sample.output == pytest.approx(wanted, rel=TOLERANCE)
        assert sum(sample.inputs.values()) + sample.constants == pytest.approx(wanted, rel=TOLERANCE)
        assert abs(sample.constants) > 1e-3 or name == "rnn" or name.startswith("causal")
    assert certificate.inexact == ()
    assert max(certificate.second_difference, certificate.of_random_outputs, certificate.superposition) < TOLERANCE
    assert certificate.is_exact and certificate.verdict.startswith("exact")


@pytest.mark.parametrize("name", ["residual", "arithmetic", "nested_skips", "two_inputs"])
def test_of_piecewise_linear_nets_they_are_gradients_times_inputs_and_biases(name: str) -> None:
    model, inputs = zoo.small_net(name)
    certificate = fxlrp.compile(model, EXACT).certify(*inputs, target=1)
    for index, sample in enumerate(certificate.samples):
        one = tuple(x[index : index + 1].clone().requires_grad_() for x in inputs)
        model.zero_grad()
        model(*one)[:, 1].sum().backward()
        for each, amount in zip(one, sample.inputs.values(), strict=True):
            assert each.grad is not None
            assert amount == pytest.approx(float((each.detach() * each.grad).sum()), rel=1e-9, abs=1e-9)
        parameters = dict(model.named_parameters())
        by_name = [(each.names[0], each.contributions[index]) for each in certificate.constants if len(each.names) == 1]
        found = {key: sum(amount for other, amount in by_name if other == key) for key, _ in by_name}
        biases = {key: amount for key, amount in found.items() if key in parameters}
        assert "head.bias" in biases
        for key, amount in biases.items():
            gradient = parameters[key].grad
            assert gradient is not None
            assert amount == pytest.approx(float((parameters[key].detach() * gradient).sum()), rel=1e-9, abs=1e-9)


def assert_is_derivative(
    certificate: Certificate, twin: Callable[[Tensor], Tensor], x: Tensor, outputs: Tensor, target: Any
) -> None:
    """What the inputs contribute is the derivative of the detached twin in the direction of the input, by jvp."""
    value, derivative = torch.func.jvp(twin, (x,), (x,))[:2]
    torch.testing.assert_close(value, outputs, rtol=1e-12, atol=1e-12)
    for sample, wanted in zip(certificate.samples, derivative[(slice(None), *target)].tolist(), strict=True):
        assert sum(sample.inputs.values()) == pytest.approx(wanted, rel=1e-11)


@pytest.mark.parametrize(
    "style", [Style(way="eager"), Style(mask="bias", encoder=True), Style("mha", "none", True)], ids=str
)
def test_of_transformers_they_are_those_of_the_detached_twin(style: Style) -> None:
    model = made(style)
    ids, *rest = inputs_of(style)
    certificate = fxlrp.compile(model, EXACT, example_inputs=(ids, *rest)).certify(ids, *rest, target=(2, 5))
    keep = rest[0] if rest else None
    with torch.no_grad():
        embedded = model.embedding(ids)
        assert_is_derivative(
            certificate, lambda each: twin(model, each, keep, "cplrp"), embedded, model(ids, *rest), (2, 5)
        )
    assert list(certificate.samples[0].inputs) == ["embedding"]


TWINS: dict[str, tuple[Any, Any]] = {"lstm": (nn.LSTM, lstm_twin), "gru": (nn.GRU, gru_twin)}


@pytest.mark.parametrize("kind", TWINS)
def test_of_recurrent_layers_they_are_those_of_the_detached_twin(kind: str) -> None:
    layer, twin_of = TWINS[kind]
    model = randomize(Recurrent(layer(4, 6, batch_first=True))).double().eval()
    x = random(2, 5, 4)
    certificate = fxlrp.compile(model, EXACT, example_inputs=x).certify(x, target=1)
    with torch.no_grad():
        assert_is_derivative(certificate, lambda each: twin_of(model, each), x, model(x), (1,))


def test_of_gates_and_norms_they_are_those_of_the_detached_twin() -> None:
    model, x = randomize(Excited()).double().eval(), random(2, 3, 8, 8)
    certificate = fxlrp.compile(model, EXACT).certify(x, target=2)
    with torch.no_grad():
        assert_is_derivative(certificate, lambda each: excited_twin(model, each), x, model(x), (2,))


def test_what_is_held_constant_is_listed_and_nothing_else() -> None:
    model, x = randomize(Excited()).double().eval(), random(2, 3, 8, 8)
    certificate = fxlrp.compile(model, EXACT).certify(x, target=2)
    frozen = {each.location.operation: each.what for each in certificate.frozen}
    assert list(frozen) == ["group_norm", "gelu", "mul", "max_pool2d", "silu"]
    assert "sigmoid (operand 1 is the gate)" in frozen["mul"]
    assert "1/sigma" in frozen["group_norm"]


def test_attention_weights_are_held_constant() -> None:
    model, inputs, target, options = net("causal_language_model")
    certificate = fxlrp.compile(model, EXACT, optimize=False, **options).certify(*inputs, target=target)
    products = [each.what for each in certificate.frozen if each.location.operation == "matmul"]
    assert len(products) == 2
    assert all(
        each.startswith(f"blocks_{block}_attention_softmax (") and "operand 0 is the gate" in each
        for block, each in enumerate(products)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_it_holds_in_double_precision_for_a_model_of_any_type_and_does_not_change_it(dtype: torch.dtype) -> None:
    style = Style(way="eager", dtype=dtype)
    model, (ids,) = made(style), inputs_of(style)
    before = copy.deepcopy(model.state_dict())
    certificate = fxlrp.compile(model, EXACT, example_inputs=ids).certify(ids, target=(-1, 3))
    assert certificate.is_exact
    assert certificate.model_dtype == str(dtype).removeprefix("torch.")
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) and after[name].dtype == dtype for name in before)
    wide = Transformer(Style(way="eager")).double().eval()
    wide.load_state_dict(before)
    for sample, wanted in zip(certificate.samples, wide(ids)[:, -1, 3].tolist(), strict=True):
        assert sample.output == pytest.approx(wanted, rel=1e-12)


class Zeros(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(3, 4, bias=False), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(torch.sigmoid(self.hidden(x)) + torch.relu(self.hidden(x)))
        return scores


def test_a_function_that_is_not_zero_at_zero_is_a_constant_there() -> None:
    model, x = randomize(Zeros()).double().eval(), random(2, 3)
    x[0] = 0.0
    certificate = fxlrp.compile(model, EXACT).certify(x, target=1)
    assert certificate.is_exact
    named = {each.names: each.contributions for each in certificate.constants}
    expected = 0.5 * float(model.head.weight[1].sum())
    assert named[("sigmoid(0)",)] == pytest.approx((expected, 0.0))
    assert named[("head.bias",)] == pytest.approx((float(model.head.bias[1]),) * 2)
    assert certificate.samples[0].inputs == {"x": 0.0}


def test_several_inputs_contribute_by_name_and_a_seed_is_explained() -> None:
    model, inputs = zoo.small_net("two_inputs")
    seed = model(*inputs).detach() * random(2, 5)
    certificate = fxlrp.compile(model, EXACT).certify(*inputs, seed=seed)
    assert certificate.is_exact
    assert list(certificate.samples[0].inputs) == ["x", "y"]
    assert [each.output for each in certificate.samples] == pytest.approx(seed.sum(1).tolist(), rel=1e-12)
