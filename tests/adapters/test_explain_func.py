"""The function that metrics call with copies of a model; Quantus itself is not needed here."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.adapters.quantus import ExplainFunc
from fxlrp.errors import CaptureError, InputError
from helpers import LRP0, lrp0
from oracles import assert_relevance


def classifier() -> nn.Sequential:
    return (
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5, bias=False))
        .double()
        .eval()
    )


INPUTS = np.random.default_rng(0).standard_normal((3, 3, 8, 8))
TARGETS = np.array([0, 2, 4])


def expected(model: nn.Module) -> Tensor:
    x = torch.from_numpy(INPUTS).requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[range(3), TARGETS].sum(), x)
    return (gradient * x).detach()


def test_it_follows_a_copy_that_is_randomized_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a parameter randomization test does: one copy, whose layers are randomized one after the other."""
    compiled: list[nn.Module] = []

    def counted(model: nn.Module, *args: Any) -> fxlrp.Explainer:
        compiled.append(model)
        return fxlrp.compile(model, *args)

    monkeypatch.setattr("fxlrp.adapters.quantus.compile", counted)
    model, explain_func = classifier(), ExplainFunc(LRP0, reduce_axes=())
    before = explain_func(model=model, inputs=INPUTS, targets=TARGETS)
    assert_relevance(torch.from_numpy(before), expected(model), 1e-9)
    randomized = copy.deepcopy(model)
    for layer in (randomized[3], randomized[0]):
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        layer.reset_parameters()
        after = explain_func(model=randomized, inputs=INPUTS, targets=TARGETS)
        assert_relevance(torch.from_numpy(after), expected(randomized), 1e-9)
    again = explain_func(model=model, inputs=INPUTS, targets=TARGETS)
    assert np.array_equal(again, before)
    assert compiled == [model]


def test_another_architecture_is_compiled_for_itself() -> None:
    model, other = classifier(), nn.Sequential(nn.Flatten(), nn.Linear(192, 5, bias=False)).double().eval()
    explain_func = ExplainFunc(LRP0, reduce_axes=())
    for each in (model, other, copy.deepcopy(model), copy.deepcopy(other)):
        relevance = explain_func(each, INPUTS, TARGETS)
        assert_relevance(torch.from_numpy(relevance), expected(each), 1e-9)


def test_channels_are_summed_by_default() -> None:
    model = classifier()
    relevance = ExplainFunc(LRP0)(model, INPUTS, TARGETS)
    assert isinstance(relevance, np.ndarray) and relevance.shape == (3, 1, 8, 8)
    assert_relevance(torch.from_numpy(relevance), expected(model).sum(1, keepdim=True), 1e-9)
    rows = ExplainFunc(LRP0, reduce_axes=(1, 2))(model, INPUTS, TARGETS)
    assert_relevance(torch.from_numpy(rows), expected(model).sum((1, 2), keepdim=True), 1e-9)


def test_features_are_not_summed() -> None:
    model, x = nn.Linear(6, 3, bias=False).double().eval(), torch.randn(2, 6, dtype=torch.float64)
    relevance = ExplainFunc(LRP0)(model, x.numpy(), np.array([0, 1]))
    assert_relevance(torch.from_numpy(relevance), (model.weight[:2] * x).detach(), 1e-9)


def test_inputs_have_the_type_of_the_model() -> None:
    model = classifier().float()
    relevance = ExplainFunc(LRP0)(model, INPUTS, TARGETS)
    assert relevance.dtype == np.float32


def test_tokens_stay_integers() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3, bias=False)).double().eval()
    ids = np.array([[1, 2, 3, 4, 5], [5, 4, 3, 2, 8]])
    relevance = ExplainFunc(LRP0)(model, ids, np.array([0, 1]))
    embedded = model[0](torch.from_numpy(ids)).detach()
    weight = model[2].weight[:2].detach()  # type: ignore[index]
    assert_relevance(torch.from_numpy(relevance), (embedded * weight.view(2, 5, 4)).sum(-1), 1e-9)


def test_the_start_is_the_output_or_one() -> None:
    model = classifier()
    of_output = torch.from_numpy(ExplainFunc(LRP0, reduce_axes=())(model, INPUTS, TARGETS))
    of_one = torch.from_numpy(ExplainFunc(LRP0, reduce_axes=(), start="one")(model, INPUTS, TARGETS))
    output = model(torch.from_numpy(INPUTS))[range(3), TARGETS].detach()
    assert_relevance(of_one * output.view(3, 1, 1, 1), of_output, 1e-9)
    assert_relevance(of_one.sum((1, 2, 3)), torch.ones(3, dtype=torch.float64), 1e-9)


@pytest.mark.parametrize("start", ["output", "one"])
def test_without_targets_the_largest_outputs_are_explained(start: Any) -> None:
    model = classifier()
    explain_func = ExplainFunc(LRP0, start=start)
    largest = model(torch.from_numpy(INPUTS)).argmax(1)
    assert np.array_equal(explain_func(model, INPUTS, None), explain_func(model, INPUTS, largest))


def test_other_arguments_reach_the_explainer() -> None:
    model, x = classifier(), torch.from_numpy(INPUTS)
    relevance = ExplainFunc(LRP0)(model, INPUTS, TARGETS, device="cpu", at="1")
    assert_relevance(torch.from_numpy(relevance), lrp0(model)(x, target=TARGETS, at="1").sum(1, keepdim=True), 1e-12)
    assert ExplainFunc(LRP0, at="1")(model, INPUTS, TARGETS).shape == (3, 1, 6, 6)


def test_what_is_not_a_model_is_an_error() -> None:
    explain_func = ExplainFunc()
    explain_func(classifier(), INPUTS, TARGETS)
    with pytest.raises(CaptureError, match="only modules"):
        explain_func(lambda x: x, INPUTS, TARGETS)  # type: ignore[arg-type]


def test_wrong_arguments_are_errors() -> None:
    with pytest.raises(InputError, match="'output', 'one'"):
        ExplainFunc(start="two")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="dimension of the samples"):
        ExplainFunc(reduce_axes=(0, 1))
    with pytest.raises(InputError, match=r"not 2 \(input, 1\)"):
        ExplainFunc()(classifier(), INPUTS, TARGETS, at=["input", "1"])
    with pytest.raises(InputError, match="reduce_axes"):
        ExplainFunc(reduce_axes=(4,))(classifier(), INPUTS, TARGETS)


def test_batch_norm_is_randomized_too() -> None:
    """It is folded into the convolution: the folded weights are those of the model of the call."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    model.double().eval()
    explain_func, randomized = ExplainFunc(LRP0, reduce_axes=()), copy.deepcopy(model)
    for layer in (model[1], randomized[1]):
        assert isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None
        nn.init.uniform_(layer.weight)
        for _ in range(2):
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
            for each in (model, randomized):
                relevance = explain_func(each, INPUTS, TARGETS)
                # LRP-0 is gradient times input also with biases.
                assert_relevance(torch.from_numpy(relevance), expected(each), 1e-8)


def test_models_in_bfloat16() -> None:
    """NumPy has no such numbers."""
    model = classifier()
    relevance = ExplainFunc(LRP0, reduce_axes=())(copy.deepcopy(model).bfloat16(), INPUTS, TARGETS)
    assert relevance.dtype == np.float32
    found, wanted = torch.from_numpy(relevance).double().flatten(), expected(model).flatten()
    assert float(torch.corrcoef(torch.stack([found, wanted]))[0, 1]) > 0.99


def test_arrays_that_are_reversed_or_read_only(recwarn: pytest.WarningsRecorder) -> None:
    model, explain_func = classifier(), ExplainFunc(LRP0)
    reversed_twice, read_only = np.flip(INPUTS, 3).copy()[..., ::-1], INPUTS.copy()
    read_only.setflags(write=False)
    usual = explain_func(model, INPUTS, TARGETS)
    assert np.array_equal(explain_func(model, reversed_twice, TARGETS), usual)
    assert np.array_equal(explain_func(model, read_only, TARGETS), usual)
    assert not any("writable" in str(each.message) for each in recwarn)


@pytest.mark.parametrize("axes", [1, "1", (1.0,), (True,)], ids=repr)
def test_axes_that_are_no_tuple_of_integers(axes: Any) -> None:
    with pytest.raises(InputError, match="must be a tuple of dimensions"):
        ExplainFunc(reduce_axes=axes)


@pytest.mark.parametrize("axes", [(1, -3), (-4,), (2, 2)], ids=str)
def test_axes_that_are_not_different_dimensions(axes: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="does not fit a relevance"):
        ExplainFunc(reduce_axes=axes)(classifier(), INPUTS, TARGETS)
