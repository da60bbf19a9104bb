"""LRP-epsilon with a clipped and with a relative stabilizer, against the dense formula and zennit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import presets, rules
from fxlrp.errors import RuleError, UnsupportedOpError
from fxlrp.extras import import_torchvision
from oracles import assert_relevance, random, randomize


def clipped(epsilon: float) -> Callable[[Tensor], Tensor]:
    return lambda z: torch.where(z >= 0, z.clamp(min=epsilon), z.clamp(max=-epsilon))


def relative(epsilon: float, over: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``over`` gives the mean of the squares that belong to each element."""
    return lambda z: torch.where(z >= 0, z + epsilon * over(z * z).sqrt(), z - epsilon * over(z * z).sqrt())


def of_samples(squares: Tensor) -> Tensor:
    return torch.stack([torch.full_like(sample, float(sample.sum()) / sample.numel()) for sample in squares])


def of_columns(squares: Tensor) -> Tensor:
    return (squares.sum(0) / len(squares)).expand_as(squares)


CASES: dict[str, tuple[rules.Rule, Callable[[Tensor], Tensor]]] = {
    "clipped": (rules.ClippedEpsilon(0.5), clipped(0.5)),
    "relative": (rules.RelativeEpsilon(0.3), relative(0.3, of_samples)),
    "over samples": (rules.RelativeEpsilon(0.3, dims=(0,)), relative(0.3, of_columns)),
    "relative, clipped": (
        rules.RelativeEpsilon(0.7, clip=True),
        lambda z: torch.sign(z) * torch.maximum(z.abs(), 0.7 * of_samples(z * z).sqrt()),
    ),
}


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_two_layers_against_the_dense_formula(case: str, optimize: bool) -> None:
    rule, stabilized = CASES[case]
    torch.manual_seed(0)
    first, second = nn.Linear(4, 6).double(), nn.Linear(6, 3).double()
    model, x = nn.Sequential(first, nn.ReLU(), second).eval(), random(3, 4, seed=2)
    for bias in (True, False):
        chosen = type(rule)(**{**vars(rule), "bias": bias})
        found = fxlrp.compile(model, [("linear", chosen)], example_inputs=x, optimize=optimize)(x, target=1)
        with torch.no_grad():
            hidden, r = model[:2](x), torch.zeros(3, 3).double()
            r[:, 1] = model(x)[:, 1]
            for layer, a in ((second, hidden), (first, x)):
                z = a @ layer.weight.T + (layer.bias if bias else 0)
                r = torch.einsum("nk,nj,kj->nj", r / stabilized(z), a, layer.weight)
        assert_relevance(found, r, 1e-12)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_convolutions_against_zennit(clip: bool, norm: bool) -> None:
    import_torchvision()  # zennit imports it, too
    from zennit import composites, core
    from zennit import rules as zennit_rules

    torch.manual_seed(0)
    model = (
        randomize(
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
        )
        .double()
        .eval()
    )
    x = random(2, 2, 6, 6, seed=1)
    stabilizer = core.Stabilizer(epsilon=0.2, clip=clip, norm_scale=norm)
    chosen: list[Any] = [(nn.ReLU, zennit_rules.Pass())]
    chosen += [(kind, zennit_rules.Epsilon(epsilon=stabilizer)) for kind in (nn.Conv2d, nn.Linear)]
    with composites.LayerMapComposite(chosen).context(model) as changed:
        given = x.clone().requires_grad_()
        out = changed(given)
        seed = torch.zeros_like(out).index_fill_(1, torch.tensor(2), 1) * out.detach()
        (expected,) = torch.autograd.grad(out, given, seed)
    rule: Any = rules.RelativeEpsilon(0.2, clip=clip) if norm else rules.ClippedEpsilon(0.2)
    rule = rules.Epsilon(0.2) if not norm and not clip else rule
    found = fxlrp.compile(model, presets.epsilon(1e-6).override([("linear", rule), ("conv2d", rule)]))(x, target=2)
    assert_relevance(found, expected, 1e-10)


def test_the_explanation_does_not_depend_on_the_scale_of_a_layer() -> None:
    torch.manual_seed(0)
    first, second, x = nn.Linear(4, 6).double(), nn.Linear(6, 3).double(), random(3, 4, seed=2)
    explain = fxlrp.compile(nn.Sequential(first, nn.ReLU(), second).eval(), [("linear", rules.RelativeEpsilon(0.1))])
    before = explain(x, seed=torch.ones(3, 3).double())
    with torch.no_grad():
        for parameter, factor in ((first.weight, 1e3), (first.bias, 1e3), (second.weight, 1e-3)):
            parameter.mul_(factor)
    assert_relevance(explain(x, seed=torch.ones(3, 3).double()), before, 1e-9)


@pytest.mark.parametrize("rule", [rules.RelativeEpsilon(0.1), rules.ClippedEpsilon(1e-3)], ids=str)
def test_sums_that_are_zero(rule: rules.Rule) -> None:
    layer = nn.Linear(3, 2, bias=False).double().eval()
    relevance = fxlrp.compile(layer, [("linear", rule)])(torch.zeros(2, 3).double(), target=0)
    assert not bool(relevance.any())


def test_sums_products_and_averages() -> None:
    """Epsilon 0 is LRP-0: gradient times input of a model that is homogeneous."""

    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            both = x + x.flip(1)
            return (both @ both.mean(2, keepdim=True)).flatten(1)

    x = random(2, 3, 3, seed=5)
    kinds = ("add", "matmul", "mean")
    reference = fxlrp.compile(Mixed().eval(), presets.epsilon(0.0))(x, target=1)
    for rule in (rules.RelativeEpsilon(0.0), rules.ClippedEpsilon(0.0)):
        found = fxlrp.compile(Mixed().eval(), presets.epsilon(0.0).override([(kind, rule) for kind in kinds]))(
            x, target=1
        )
        assert_relevance(found, reference, 1e-12)
    # The relative stabilizer of n equal factors is that of their product.
    smaller = fxlrp.compile(Mixed().eval(), presets.epsilon(0.0).override([("matmul", rules.RelativeEpsilon(0.5))]))
    assert float(smaller(x, target=1).abs().sum()) < float(reference.abs().sum())


def test_half_precision_does_not_overflow() -> None:
    layer = nn.Linear(4, 2, bias=False).half().eval()
    with torch.no_grad():
        layer.weight.fill_(100.0)
    x = torch.full((1, 4), 10.0).half()
    relevance = fxlrp.compile(layer, [("linear", rules.RelativeEpsilon(0.5))])(x, target=0)
    torch.testing.assert_close(relevance, torch.full((1, 4), 1000 / 1.5).half(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dims", [(), (1.0,), (True,), 1, "all"], ids=repr)
def test_dims_that_are_none(dims: Any) -> None:
    with pytest.raises(RuleError, match="dims must be a tuple of integers or None"):
        rules.RelativeEpsilon(dims=dims)


def test_lists_of_dims_and_recipes(tmp_path: Any) -> None:
    assert rules.RelativeEpsilon(dims=[1, 2]).dims == (1, 2)  # type: ignore[arg-type]
    assert "dims=(1,)" in str(rules.RelativeEpsilon(dims=(1,)))
    layer, x = nn.Linear(4, 3).eval(), torch.rand(2, 4)
    explain = fxlrp.compile(layer, [("linear", rules.RelativeEpsilon(0.2, clip=True, dims=(1,)))])
    explain.save(tmp_path / "explain.json")
    assert torch.equal(fxlrp.load(tmp_path / "explain.json", layer)(x, target=1), explain(x, target=1))


def test_bias_is_for_layers_with_one() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x.flip(1)

    with pytest.raises((UnsupportedOpError, RuleError), match="add"):
        fxlrp.compile(Sum().eval(), [("add", rules.RelativeEpsilon(bias=False))])


@pytest.mark.parametrize("dims", [(2,), (-3,), (1, -1)], ids=str)
@pytest.mark.parametrize("optimize", [True, False])
def test_dims_that_the_sums_do_not_have(dims: tuple[int, ...], optimize: bool) -> None:
    rule = rules.RelativeEpsilon(dims=dims)
    explain = fxlrp.compile(nn.Linear(4, 3).eval(), [("linear", rule)], optimize=optimize)
    with pytest.raises(RuleError, match=r"RelativeEpsilon: dims=.* different dimensions of sums of shape \(2, 3\)"):
        explain(torch.rand(2, 4), target=0)


@pytest.mark.parametrize(
    "rule", [rules.RelativeEpsilon(0.1), rules.RelativeEpsilon(0.1, clip=True), rules.ClippedEpsilon(0.1)], ids=str
)
def test_derivatives_of_a_sample_whose_sums_are_zero(rule: rules.Rule) -> None:
    """A root has an infinite derivative at zero, and the relevance of the other samples has one by differences."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False)).double().eval()
    explain = fxlrp.compile(model, [("linear", rule)], differentiable=True)
    x, weights = random(3, 4, seed=2), random(3, 4, seed=3)
    x[1] = 0

    def measured(x: Tensor) -> Tensor:
        found = explain(x, target=1)
        assert isinstance(found, Tensor)
        return (found * weights).sum()

    (derivative,) = torch.autograd.grad(measured(x.requires_grad_()), x)
    assert not bool(derivative[1].isnan().any())
    with torch.no_grad():
        for index in ((0, 0), (0, 3), (2, 1)):
            step = torch.zeros_like(x)
            step[index] = 1e-6
            difference = (measured(x + step) - measured(x - step)) / 2e-6
            torch.testing.assert_close(derivative[index], difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "rule", [rules.Epsilon(1e-9), rules.ClippedEpsilon(1e-9), rules.RelativeEpsilon(1e-6)], ids=str
)
@pytest.mark.parametrize("optimize", [True, False])
def test_a_stabilizer_that_half_precision_rounds_to_zero(rule: rules.Rule, optimize: bool) -> None:
    """Sums that are zero pass on nothing, as with LRP-0, and not 0/0."""
    first, second = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[0.01, 0.02], [0.0, 0.0], [0.03, -0.01]]))
        second.weight.copy_(torch.tensor([[0.5, 1.0, 0.25], [0.0, 0.0, 0.0]]))
    model = nn.Sequential(first, nn.ReLU(), second).half().eval()
    explain = fxlrp.compile(model, [("linear", rule)], optimize=optimize)
    x = torch.tensor([[0.5, 0.25], [0.0, 0.0]]).half()
    # The sums of the first row are 0.01, 0 and 0.0125; the explained outputs are 0.5 * 0.01 + 0.25 * 0.0125 and 0.
    expected = torch.tensor([[0.5 * 0.005 + 0.25 * 0.015, 0.5 * 0.005 - 0.25 * 0.0025], [0.0, 0.0]]).half()
    torch.testing.assert_close(explain(x, target=0), expected, rtol=1e-2, atol=1e-5)
    assert not bool(explain(x, target=1).any())
