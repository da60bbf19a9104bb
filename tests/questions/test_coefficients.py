"""Coefficients ``C`` of the relevance ``R = value * C``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import InputError
from fxlrp.targets import contrast, each
from helpers import LRP0
from oracles import assert_relevance, random
from questions import language_model, skips

X = random(2, 2, 6, 6)
IDS = torch.tensor([[1, 4, 2, 7, 3, 8], [5, 5, 0, 9, 10, 1]])


def test_of_lrp_0_they_are_the_gradient_also_where_the_value_is_zero() -> None:
    model, x = skips(), X.clone()
    x[:, :, 2:4] = 0.0
    explain = fxlrp.compile(model, LRP0)
    leaf = x.clone().requires_grad_()
    kept: list[Tensor] = []
    names = ["stem", "block.0", "last"]
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda module, args, out: kept.append(out))
    gradients = torch.autograd.grad(model(leaf)[:, 1].sum(), [leaf, *kept])
    found = explain(x, target=1, at=["x", *names], coefficients=True)
    for one, expected in zip(found.values(), gradients, strict=True):
        assert_relevance(one, expected, 1e-12)
    assert gradients[0][x == 0].abs().sum() > 0


def test_a_seed_over_an_output_of_zero_is_zero() -> None:
    model, x = nn.Linear(4, 3, bias=False).double().eval(), random(2, 4, seed=1)
    x[1] = 0.0
    weight, seed = model.weight.detach(), random(2, 3, seed=2)
    found = fxlrp.compile(model, LRP0)(x, seed=seed, coefficients=True)
    expected = torch.stack([(seed[0] / (weight @ x[0])) @ weight, torch.zeros(4, dtype=torch.float64)])
    assert_relevance(found, expected, 1e-12)


@pytest.mark.parametrize("rules", ["epsilon", "attnlrp", "cplrp", "default"])
def test_a_coefficient_times_the_value_is_the_relevance(rules: str) -> None:
    model = language_model()
    explain = fxlrp.compile(model, rules, example_inputs=IDS)
    names = ["embed", "blocks.0", "blocks.0.norm1", "blocks.0.out", "blocks.0.up", "blocks.1.down", "norm", "head"]
    values = _values(model, names)
    coefficients = explain(IDS, target=(-1, 3), at=names, coefficients=True)
    relevances = explain(IDS, target=(-1, 3), at=names)
    for name in names:
        assert_relevance(coefficients[name] * values[name], relevances[name], 1e-9)


def _values(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}

    def keep(name: str) -> None:
        def hook(module: nn.Module, args: object, out: Tensor) -> None:
            values[name] = out.detach()

        model.get_submodule(name).register_forward_hook(hook)

    for name in names:
        keep(name)
    model(IDS)
    return values


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("rules", ["epsilon", "epsilon_plus", "epsilon_alpha2_beta1"])
def test_of_a_convolutional_net(rules: str, optimize: bool) -> None:
    explain = fxlrp.compile(skips(), rules, optimize=optimize)
    names = ["stem.0", "stem", "block.1", "last"]
    found = explain(X, target=1, at=names, coefficients=True)
    assert_relevance(explain(X, target=1, coefficients=True) * X, explain(X, target=1), 1e-10)
    for name, value in _values_of(skips(), names).items():
        assert_relevance(found[name] * value, explain(X, target=1, at=name), 1e-10)


def _values_of(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: values.__setitem__(name, out.detach())
        )
    model(X)
    return values


@pytest.mark.parametrize("rule", [fxlrp.rules.ZPlus(), fxlrp.rules.Gamma(0.5), fxlrp.rules.AlphaBeta()], ids=str)
def test_where_an_input_of_both_signs_is_zero(rule: Any) -> None:
    """The mean of the coefficients on both sides."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).double().eval()
    explain = fxlrp.compile(model, fxlrp.presets.epsilon(0.0).override([("0", rule)]))
    x = random(2, 4)
    x[:, 1] = 0.0
    sides = []
    for small in (1e-12, -1e-12):
        near = x.clone()
        near[:, 1] = small
        sides.append(explain(near, target=1) / near)
    found = explain(x, target=1, coefficients=True)
    assert_relevance(found, (sides[0] + sides[1]) / 2, 1e-8)


ACTIVATIONS = [nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Tanh(), nn.LeakyReLU(0.2), nn.PReLU(4), nn.ELU(), nn.Hardswish()]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda each: type(each).__name__)
def test_an_activation_is_a_constant_factor(activation: nn.Module) -> None:
    """``f(x) / x`` is constant; at zero it is the mean of the slopes on both sides."""
    torch.manual_seed(0)
    head = nn.Linear(4, 3, bias=False).double()
    model = nn.Sequential(activation.double(), head).eval()
    x = random(5, 4)
    x[0, :2] = 0.0
    explain = fxlrp.compile(model, LRP0)
    ratio = activation(x) / x
    slopes = (activation(torch.full_like(x, 1e-6)) - activation(torch.full_like(x, -1e-6))) / 2e-6
    expected = torch.where(x == 0, slopes, ratio) * head.weight[1]
    assert_relevance(explain(x, target=1, coefficients=True), expected.detach(), 1e-4)
    away = x != 0
    assert_relevance(explain(x, target=1, coefficients=True)[away], expected.detach()[away], 1e-12)


def test_of_several_targets_contrasts_and_conditions() -> None:
    explain = fxlrp.compile(skips(), LRP0)
    targets = [0, contrast(1, 2), contrast(2), None]
    found = explain(X, target=each(targets), coefficients=True)
    for target, coefficient in zip(targets, found, strict=True):
        assert_relevance(coefficient, explain(X, target=target, coefficients=True), 1e-10)
        assert_relevance(coefficient * X, explain(X, target=target), 1e-10)
    under = explain(X, target=1, only={"block.1": [0, 3]}, coefficients=True)
    assert_relevance(under * X, explain(X, target=1, only={"block.1": [0, 3]}), 1e-10)
    seed = random(2, 3, seed=7)
    assert_relevance(explain(X, seed=seed, coefficients=True) * X, explain(X, seed=seed), 1e-10)


def test_what_has_none_says_why() -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus_flat")
    with pytest.raises(InputError, match=r"'x' has no coefficient: the rule Flat\(\) of the node 'stem_0'"):
        explain(X, target=1, coefficients=True)
    assert explain(X, target=1, at="stem", coefficients=True).shape == (2, 4, 6, 6)
    tokens = fxlrp.compile(language_model(), "attnlrp", example_inputs=IDS)
    with pytest.raises(InputError, match="'ids' has no coefficient"):
        tokens(IDS, target=(-1, 3), coefficients=True)


@pytest.mark.parametrize("rules", ["epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma_box"])
def test_optimizations_do_not_change_the_coefficient_of_zero(rules: str) -> None:
    """A ReLU is never negative, but at zero the coefficient is the mean of both sides, known sign or not."""
    options = {"low": -3.0, "high": 3.0} if rules == "epsilon_gamma_box" else {}
    model, preset = skips(), getattr(fxlrp.presets, rules)(**options)
    found, plain = (
        fxlrp.compile(model, preset, optimize=optimize)(X, target=1, at=["stem", "block.1"], coefficients=True)
        for optimize in (True, False)
    )
    for name, value in _values_of(model, ["stem", "block.1"]).items():
        assert (value == 0).any()
        assert_relevance(found[name], plain[name], 1e-10)


def test_the_coefficient_of_a_rectified_zero() -> None:
    """The mean of ``W+^T r`` and ``W-^T r`` for ``r = 1 / s(z+)``, times the output."""
    layer = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 2.0]]))
    model = nn.Sequential(nn.ReLU(), layer).eval()
    explain = fxlrp.compile(model, [("1", fxlrp.rules.ZPlus(1e-12))])
    x = torch.tensor([[-1.0, 2.0]], dtype=torch.float64)
    # z+ = 4 and R = 4: the coefficients are W+ = (3, 2) above zero and W- = (0, 0) below.
    found = explain(x, target=0, at="0", coefficients=True)
    assert_relevance(found, torch.tensor([[1.5, 2.0]], dtype=torch.float64), 1e-9)
