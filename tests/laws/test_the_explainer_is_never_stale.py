"""Law 1 of docs/architecture.md, its other half: the explainer follows the model."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fxlrp
import zoo
from fxlrp.errors import FxlrpError
from helpers import assert_is_gradient, lrp0
from law_models import (
    PRESETS,
    load_state_dict,
    optimizer_step,
    other_state,
    replace_parameter,
    residual,
    write_through_data,
)
from oracles import assert_relevance


def train_an_epoch(model: nn.Module) -> None:
    """BatchNorm's running statistics move too."""
    model.train()
    optimizer_step(model)
    model.eval()


def assign_state_dict(model: nn.Module) -> None:
    model.load_state_dict(other_state(model), assign=True)


def replace_linear_bias(model: nn.Module) -> None:
    """Feeds no ReLU, so LRP-0 sees it by the choice of the largest output only."""
    bias = model.get_parameter("head.bias").detach()
    model.get_submodule("head").bias = nn.Parameter(bias + 5 * torch.eye(5, dtype=bias.dtype)[3])


def running_statistics(model: nn.Module) -> None:
    model.get_buffer("bn2.running_var").mul_(3)
    model.get_buffer("bn3.running_mean").add_(0.5)


def replace_buffer(model: nn.Module) -> None:
    model.get_submodule("bn1").running_var = model.get_buffer("bn1.running_var") * 4


def assign_data(model: nn.Module) -> None:
    weight = model.get_parameter("conv3.weight")
    weight.data = weight.data.flip(0)


def to_other_dtype_and_back(model: nn.Module) -> None:
    model.half().double()
    model.get_parameter("conv1.weight").data.neg_()


CHANGES = [
    optimizer_step,
    train_an_epoch,
    load_state_dict,
    assign_state_dict,
    replace_parameter,
    replace_linear_bias,
    running_statistics,
    replace_buffer,
    write_through_data,
    assign_data,
    to_other_dtype_and_back,
]


@pytest.mark.parametrize("asked_before", [True, False], ids=["asked_before", "first_asked_after"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_weights_change_the_answer(change: Callable[[nn.Module], None], asked_before: bool) -> None:
    model, x = residual()
    explain = lrp0(model)
    before = explain(x) if asked_before else zoo.gradient_times_input(model, x)[0]
    change(model)
    after = explain(x)
    assert (after - before).abs().max() > 1e-3 * before.abs().max()
    assert_is_gradient(after, model, x)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_weights_are_as_if_compiled_anew(change: Callable[[nn.Module], None], preset: Any) -> None:
    """Rules that prepare constants, such as W+, prepare them again. What they give is tested elsewhere."""
    model, x = residual()
    explain = fxlrp.compile(model, rules=preset)
    before = explain(x)
    change(model)
    after = explain(x)
    assert (after - before).abs().max() > 1e-3 * before.abs().max()
    assert_relevance(after, fxlrp.compile(model, rules=preset)(x), 1e-12)


@pytest.mark.parametrize("path", ["conv2", "bn2", "head"])
def test_replaced_module_is_used_or_refused(path: str) -> None:
    model, x = residual()
    explain = lrp0(model)
    explain(x)
    setattr(model, path, copy.deepcopy(model.get_submodule(path)))
    with torch.no_grad():
        model.get_parameter(f"{path}.weight").mul_(-1)
    try:
        relevance = explain(x)
    except FxlrpError as error:
        assert path in str(error)
    else:
        assert_is_gradient(relevance, model, x)


def test_model_in_training_mode_again_is_explained_as_in_eval_mode_or_refused() -> None:
    model, x = residual()
    explain = lrp0(model)
    model.train()
    try:
        relevance = explain(x)
    except FxlrpError as error:
        assert "train" in str(error)
    else:
        assert_is_gradient(relevance, model.eval(), x)


@pytest.mark.parametrize("place", ["", "conv2", "bn2", "relu"])
def test_hook_that_changes_an_output_is_obeyed_or_refused(place: str) -> None:
    model, x = residual()
    model.get_submodule(place).register_forward_hook(lambda module, args, output: output * 3 - 1)
    try:
        relevance = lrp0(model)(x)
    except FxlrpError as error:
        assert "hook" in str(error)
    else:
        assert_is_gradient(relevance, model, x)
