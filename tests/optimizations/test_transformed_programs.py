"""Optimized programs under what transforms them: autocast, functional calls, vmap, compilation, export, devices."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

import fxlrp
import zoo
from fxlrp import rules
from helpers import as_tuple
from optimization_checks import CONFIGURATIONS, assert_same, in_place, model_of, small_net, some_configuration, stale
from optimization_nets import PRESETS
from oracles import assert_relevance, random

X, Y = random(3, 6, seed=3), random(3, 6, seed=4)


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(2, 6))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.left @ self.right)


def low_rank() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), LowRank()).eval(), torch.randn(3, 6)


def test_constants_made_under_autocast_are_not_kept() -> None:
    """There a product of two parameters is of half precision."""
    model, x = low_rank()
    plain, explain = (fxlrp.compile(model, optimize=each) for each in (False, True))
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            assert_relevance(explain(x).float(), plain(x).float(), 0.05)
        assert_relevance(explain(x), plain(x), 1e-5)
        in_place_everywhere(model)


@torch.no_grad()
def in_place_everywhere(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.mul_(1.1)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_relevance_has_the_inputs_type_under_autocast(configuration: str) -> None:
    model, x = low_rank()
    for rule in (rules.Epsilon(), rules.ZPlus(), rules.Gamma(), rules.AlphaBeta()):
        plain = fxlrp.compile(model, [("linear", rule)], optimize=False)
        explain = fxlrp.compile(model, [("linear", rule)], optimize=CONFIGURATIONS[configuration])
        with torch.autocast("cpu", torch.bfloat16):
            expected, relevance = plain(x), explain(x)
        assert relevance.dtype == expected.dtype == x.dtype
        assert_relevance(relevance, expected, 0.05)


def other_weights(explain: fxlrp.Explainer) -> dict[str, Tensor]:
    return {name: 1.5 * value.detach() for name, value in explain.named_parameters()}


def under_functional_call(explain: fxlrp.Explainer, x: Tensor) -> Any:
    return torch.func.functional_call(explain, other_weights(explain), (x,), {"target": 1})


def under_vmap_over_inputs(explain: fxlrp.Explainer, x: Tensor) -> Any:
    return torch.func.vmap(lambda sample: explain(sample[None], target=1)[0])(x)


def under_vmap_over_weights(explain: fxlrp.Explainer, x: Tensor) -> Any:
    """As for an ensemble."""
    weights = {name: torch.stack([value, 2 * value]) for name, value in other_weights(explain).items()}
    return torch.func.vmap(lambda each: torch.func.functional_call(explain, each, (x,), {"target": 1}))(weights)


def as_a_graph_of_kernels(explain: fxlrp.Explainer, x: Tensor) -> Any:
    """It outlives the call, so it must not hold what is kept."""
    graph = make_fx(lambda x: explain(x, target=1))(x)
    in_place(model_of(explain))
    try:
        return graph(x)
    finally:
        in_place(model_of(explain))


def on_fake_tensors(explain: fxlrp.Explainer, x: Tensor) -> Any:
    with FakeTensorMode(allow_non_fake_inputs=True):
        shape = explain(torch.empty(x.shape, dtype=x.dtype), target=1).shape
    return explain(x, target=1).reshape(shape)


@pytest.mark.parametrize(
    "ask",
    [
        *(under_functional_call, under_vmap_over_inputs, under_vmap_over_weights),
        *(as_a_graph_of_kernels, on_fake_tensors),
    ],
    ids=lambda ask: ask.__name__,
)
def test_what_transforms_a_program_transforms_an_optimized_one(ask: Callable[..., Any]) -> None:
    model, x = stale()
    explain, plain = (fxlrp.compile(model, optimize=each) for each in (True, False))
    for _ in range(2):
        assert_relevance(explain(x, target=1), plain(x, target=1), 1e-12)
        assert_relevance(ask(explain, x), ask(plain, x), 1e-12)


PRODUCTS = [
    ("nested_skips", "epsilon_gamma_box"),
    ("pooling", "epsilon_alpha2_beta1_flat"),
    ("batch_norm_after_transposed", "epsilon_plus_flat"),
    ("two_inputs", "epsilon"),
    ("concatenation", "epsilon_gamma_box"),
]


def cut(inputs: tuple[Tensor, ...], batch: int) -> tuple[Tensor, ...]:
    return tuple(x[:batch].clone() for x in inputs)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(("name", "preset"), PRODUCTS[:2])
def test_torch_compile(name: str, preset: str) -> None:
    """What is compiled, of either batch, says what eager programs say, and follows the weights."""
    model, inputs = small_net(name, batch=3)
    optimized, plain = (fxlrp.compile(model, PRESETS[preset], optimize=each) for each in (True, False))
    optimized(*inputs)
    compiled = torch.compile(optimized, fullgraph=True, backend="aot_eager")
    for batch in (3, 2):
        for _ in range(2):
            pairs = zip(*(as_tuple(each(*cut(inputs, batch))) for each in (compiled, plain)), strict=True)
            for got, expected in pairs:
                assert_relevance(got, expected)
            next(model.parameters()).data.mul_(-1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset"), PRODUCTS)
def test_torch_export(name: str, preset: str) -> None:
    """The exported program says what eager programs say, for every batch and also once the weights have changed."""
    model, inputs = small_net(name, batch=3)
    optimized, plain = (fxlrp.compile(model, PRESETS[preset], optimize=each) for each in (True, False))
    expected = [as_tuple(plain(*cut(inputs, batch))) for batch in (3, 2, 1)]
    batch = torch.export.Dim("batch")
    exported = torch.export.export(optimized, inputs, dynamic_shapes=(tuple({0: batch} for _ in inputs),)).module()
    for size, wanted in zip((3, 2, 1), expected, strict=True):
        kept = cut(inputs, size)
        for got, each in zip(as_tuple(exported(*kept)), wanted, strict=True):
            assert_relevance(got, each)
        assert all(torch.equal(x, y) for x, y in zip(kept, cut(inputs, size), strict=True))


@pytest.mark.parametrize("name", ["residual", "nested_skips", "batch_norm_after_transposed"])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_program_by_itself(name: str, configuration: str) -> None:
    """`graph_module` says what the explainer says, and is a plain graph in every configuration."""
    model, (x,) = small_net(name)
    plain = fxlrp.compile(model, PRESETS["epsilon_gamma_box"], optimize=False)
    explain = fxlrp.compile(model, PRESETS["epsilon_gamma_box"], optimize=CONFIGURATIONS[configuration])
    explain(x)
    through_first_parameter(model)
    with torch.no_grad():
        assert_relevance(explain.graph_module(x), plain(x))
    assert {node.op for node in explain.graph_module.graph.nodes} <= {
        "placeholder",
        "get_attr",
        "call_function",
        "output",
    }
    state = {key: value.clone() for key, value in model.state_dict().items()}
    explain(x)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert list(explain.state_dict()) == list(plain.state_dict())


def through_first_parameter(model: nn.Module) -> None:
    next(model.parameters()).data.mul_(-1)


@pytest.mark.cuda
@pytest.mark.parametrize("preset", PRESETS)
def test_on_a_device(preset: str) -> None:
    for turn, name in enumerate(zoo.SMALL_NETS):
        model, inputs = small_net(name)
        on_device, compiled_with = tuple(x.cuda() for x in inputs), {"example_inputs": inputs}
        configurations = some_configuration(turn)
        assert_same(
            model.cuda(), PRESETS[preset], *on_device, configurations=configurations, compiled_with=compiled_with
        )


class Scaled(nn.Module):
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.linear.weight * self.scale, self.linear.bias)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_parameters_on_two_devices(device: str) -> None:
    """A number on the CPU may scale a weight that is on another device."""
    model = Scaled().double().eval()
    model.linear.to(device)
    assert_same(model, None, X.to(device), configurations=list(CONFIGURATIONS))
