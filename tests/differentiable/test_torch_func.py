"""Explainers under the transforms of ``torch.func``: they work, or refuse with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacrev, jvp, vjp, vmap

import fxlrp
from derivatives import PRESETS, STEP, made
from fxlrp.errors import InputError
from oracles import assert_relevance, random

RULES = {"convolutions": "epsilon_plus", "transformer block": "attnlrp"}


def _explainer(net: str, **options: Any) -> tuple[fxlrp.Explainer, Tensor]:
    model, x = made(net)
    return fxlrp.compile(model, PRESETS[RULES[net]], example_inputs=x, **options), x


both = pytest.mark.parametrize("differentiable", [True, False])
nets = pytest.mark.parametrize("net", RULES)


@both
@nets
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_over_samples(net: str, differentiable: bool) -> None:
    explain, x = _explainer(net, differentiable=differentiable)
    for target in (1, None):
        found = vmap(lambda sample: explain(sample[None], target=target)[0])(x)  # noqa: B023
        assert_relevance(found.detach(), explain(x, target=target).detach(), 1e-10)


@both
@nets
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_over_targets(net: str, differentiable: bool) -> None:
    explain, x = _explainer(net, differentiable=differentiable)
    found = vmap(lambda target: explain(x, target=target))(torch.tensor([0, -1, 1]))
    for relevance, target in zip(found, (0, 2, 1), strict=True):
        assert_relevance(relevance.detach(), explain(x, target=target).detach(), 1e-10)
    of_samples = vmap(lambda target: explain(x, target=target))(torch.tensor([[0, 1], [2, 0]]))
    assert_relevance(of_samples[1].detach(), explain(x, target=[2, 0]).detach(), 1e-10)
    paired = vmap(lambda sample, target: explain(sample[None], target=target)[0])(x, torch.tensor([2, 0]))
    assert_relevance(paired.detach(), explain(x, target=[2, 0]).detach(), 1e-10)
    with pytest.raises(InputError, match=r"out of range.*\[0, 3\]"):
        vmap(lambda target: explain(x, target=target))(torch.tensor([0, 3]))


@both
@nets
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_over_seeds(net: str, differentiable: bool) -> None:
    explain, x = _explainer(net, differentiable=differentiable)
    seeds = random(4, 2, 3, seed=8)
    found = vmap(lambda seed: explain(x, seed=seed))(seeds)
    for relevance, seed in zip(found, seeds, strict=True):
        assert_relevance(relevance.detach(), explain(x, seed=seed).detach(), 1e-10)


@both
@nets
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_functional_call(net: str, differentiable: bool) -> None:
    explain, x = _explainer(net, differentiable=differentiable)
    other = {name: value.detach() * 1.1 for name, value in explain.named_parameters()}
    found = functional_call(explain, other, (x,), {"target": 1}).detach()
    several = {name: torch.stack([value.detach(), value.detach() * 1.1]) for name, value in explain.named_parameters()}
    ensemble = vmap(lambda values: functional_call(explain, values, (x,), {"target": 1}))(several)
    assert_relevance(ensemble[0].detach(), explain(x, target=1).detach(), 1e-10)
    with torch.no_grad():
        for parameter in explain.parameters():
            parameter.mul_(1.1)
    assert_relevance(found, explain(x, target=1).detach(), 1e-10)
    assert_relevance(ensemble[1].detach(), found, 1e-10)


_DERIVATIVES: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Any]] = {
    "grad": lambda loss, x: grad(loss)(x),
    "vjp": lambda loss, x: vjp(loss, x)[1](torch.ones((), dtype=x.dtype)),
    "jvp": lambda loss, x: jvp(loss, (x,), (torch.ones_like(x),)),
    "jacrev": lambda loss, x: jacrev(loss)(x),
    "hessian": lambda loss, x: hessian(loss)(x),
    "vmap of grad": lambda loss, x: vmap(grad(lambda sample: loss(sample[None])))(x),
    "grad of vmap": lambda loss, x: grad(lambda x: vmap(lambda sample: loss(sample[None]))(x).sum())(x),
}


@pytest.mark.parametrize("transform", _DERIVATIVES)
@nets
def test_derivatives_of_an_ordinary_explainer_are_refused(net: str, transform: str) -> None:
    """They would be zero, because it computes without gradients."""
    explain, x = _explainer(net)
    with pytest.raises(InputError, match="differentiable=True"):
        _DERIVATIVES[transform](lambda x: explain(x, target=1).square().sum(), x)


@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap of grad", "grad of vmap"])
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace the builtin")
def test_they_are_refused_in_code_that_is_compiled(transform: str, fresh_compiler: None) -> None:
    explain, x = _explainer("convolutions")

    def differentiated(x: Tensor) -> Any:
        return _DERIVATIVES[transform](lambda x: explain(x, target=1).square().sum(), x)

    with pytest.raises(InputError, match="differentiable=True"):
        torch.compile(differentiated, backend="eager")(x)
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="differentiable=True"):
        torch.compile(differentiated, backend="eager", fullgraph=True)(x)


def test_vmap_in_code_that_is_compiled(fresh_compiler: None) -> None:
    explain, x = _explainer("convolutions")
    compiled = torch.compile(vmap(lambda sample: explain(sample[None], target=1)[0]), backend="eager", fullgraph=True)
    assert_relevance(compiled(x), explain(x, target=1), 1e-10)


def test_derivatives_by_parameters_and_seeds_are_refused() -> None:
    explain, x = _explainer("convolutions")
    values = {name: value.detach() for name, value in explain.named_parameters()}
    with pytest.raises(InputError, match="differentiable=True"):
        grad(lambda values: functional_call(explain, values, (x,), {"target": 1}).sum())(values)
    with pytest.raises(InputError, match="differentiable=True"):
        grad(lambda seed: explain(x, seed=seed).sum())(random(2, 3))


def test_an_explanation_that_is_not_differentiated_is_not_refused() -> None:
    explain, x = _explainer("convolutions")
    weights = explain(x, target=1)
    assert_relevance(grad(lambda y: (y * explain(x, target=1)).sum())(x), weights, 1e-12)


@nets
def test_grad_and_jvp_against_differences(net: str) -> None:
    explain, x = _explainer(net, differentiable=True)
    along = random(*x.shape, seed=4)

    def loss(x: Tensor) -> Tensor:
        return explain(x, target=1).square().sum()

    with torch.no_grad():
        expected = (loss(x + STEP * along) - loss(x - STEP * along)) / (2 * STEP)
    assert expected.abs() > 1e-9
    for found in ((grad(loss)(x) * along).sum(), jvp(loss, (x,), (along,))[1]):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=1e-10)
    given = x.clone().requires_grad_()
    loss(given).backward()
    assert given.grad is not None
    each = vmap(grad(lambda sample: loss(sample[None])))(x)
    assert_relevance(each.detach(), given.grad, 1e-10)
    assert_relevance(grad(loss)(x).detach(), given.grad, 1e-10)


def test_grad_by_parameters() -> None:
    explain, x = _explainer("transformer block", differentiable=True)
    values = {name: value.detach() for name, value in explain.named_parameters()}
    found = grad(lambda values: functional_call(explain, values, (x,), {"target": 1}).square().sum())(values)
    explain(x, target=1).square().sum().backward()
    for name, parameter in explain.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(found[name].detach(), parameter.grad, rtol=1e-9, atol=1e-12)
