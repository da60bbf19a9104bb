"""BatchNorm in eval mode, by itself and folded into the layer before it, against oracles in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import oracles
from fxlrp import rules
from fxlrp.errors import InputError
from helpers import Function, epsilon_with, explained, seed_of
from oracles import (
    assert_relevance,
    dense_map,
    epsilon_rule,
    random,
    randomize,
    stabilize,
    through,
)

BATCH_NORMS = [
    (nn.BatchNorm1d, ()),
    (nn.BatchNorm1d, (5,)),
    (nn.BatchNorm2d, (2, 3)),
    (nn.BatchNorm3d, (2, 2, 2)),
]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("kind", "plane"), BATCH_NORMS, ids=str)
def test_batch_norm_alone(kind: type[nn.Module], plane: tuple[int, ...], affine: bool) -> None:
    """With no layer to be folded into: z = f x + c with f = weight / sigma, R_x = f x R / s(z)."""
    norm: Any = randomize(kind(4, affine=affine))
    x, seed = random(3, 4, *plane), random(3, 4, *plane, seed=1)
    channel = (1, 4, *[1] * len(plane))
    factor = (norm.running_var + norm.eps).rsqrt() * (norm.weight.detach() if affine else 1.0)
    offset = (norm.bias.detach() if affine else 0.0) - norm.running_mean * factor
    factor, offset = factor.reshape(channel), offset.reshape(channel)
    z = factor * x + offset
    assert_relevance(explained(nn.Sequential(norm), (x,), seed), factor * x * seed / stabilize(z))
    found = explained(nn.Sequential(norm), (x,), seed, epsilon_with(("batch_norm", rules.Epsilon(0.25))))
    assert_relevance(found, factor * x * seed / stabilize(z, 0.25))


FOLDED: dict[str, tuple[Callable[[], tuple[nn.Module, nn.Module]], tuple[int, ...]]] = {
    "conv1d": (lambda: (nn.Conv1d(2, 3, 3, padding=1), nn.BatchNorm1d(3)), (2, 6)),
    "conv2d": (lambda: (nn.Conv2d(2, 3, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(3)), (2, 5, 5)),
    "conv2d bias": (lambda: (nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), (2, 4, 4)),
    "conv2d groups": (lambda: (nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4)), (4, 3, 3)),
    "conv2d plain norm": (lambda: (nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3, affine=False, eps=1e-2)), (2, 4, 4)),
    "conv3d": (lambda: (nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3)), (2, 3, 3, 2)),
    "linear": (lambda: (nn.Linear(5, 4), nn.BatchNorm1d(4)), (5,)),
    "linear no bias": (lambda: (nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4)), (5,)),
    "conv_transpose1d": (lambda: (nn.ConvTranspose1d(2, 3, 3, stride=2), nn.BatchNorm1d(3)), (2, 4)),
    "conv_transpose2d": (
        lambda: (nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), nn.BatchNorm2d(3)),
        (2, 3, 3),
    ),
    "conv_transpose2d groups": (
        lambda: (nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False), nn.BatchNorm2d(6)),
        (4, 3, 3),
    ),
}
FOLD_RULES: list[tuple[object, Function, dict[str, Any]]] = [
    (rules.Epsilon(), epsilon_rule, {}),
    (rules.ZPlus(), oracles.zplus_rule, {}),
    (rules.AlphaBeta(), oracles.alpha_beta_rule, {}),
    (rules.Gamma(), oracles.gamma_rule, {}),
    (rules.ZBox(-3.0, 3.0), oracles.zbox_rule, {"low": -3.0, "high": 3.0}),
    (rules.WSquare(), oracles.wsquare_rule, {}),
    (rules.Flat(), oracles.flat_rule, {}),
    (rules.ZPlus(bias=False), oracles.zplus_rule, {"bias": False}),
]


@pytest.mark.parametrize(("rule", "oracle", "options"), FOLD_RULES, ids=lambda v: "" if callable(v) else str(v))
@pytest.mark.parametrize("name", FOLDED)
def test_batch_norm_folded(name: str, rule: object, oracle: Function, options: dict[str, Any]) -> None:
    """The rule is applied to the composed map: norm(layer(x)) has one matrix and one bias."""
    make, shape = FOLDED[name]
    layer, norm = (randomize(module, i) for i, module in enumerate(make()))
    model = nn.Sequential(layer, norm)
    x = random(3, *shape)
    seed = seed_of(model(x))
    m = dense_map(model, shape, taps_of=layer)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    relevance = explained(model, (x,), seed, epsilon_with((type(layer), rule)))
    assert_relevance(relevance, through(oracle, m, x, seed, **options))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Branches(nn.Module):
    """Ways of using a convolution and its BatchNorm more than once."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv = randomize(nn.Conv2d(2, 2, 3, padding=1), 1)
        self.norm = randomize(nn.BatchNorm2d(2), 2)
        self.other = randomize(nn.BatchNorm2d(2), 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "conv is used beside the norm":
            h = self.conv(x)
            return self.norm(h) + h
        middle = self.norm(self.conv(x)).relu()
        if self.way == "conv is called twice, one norm":
            return self.conv(middle)
        if self.way == "conv is called twice, two norms":
            return self.other(self.conv(middle))
        if self.way == "conv and norm are called twice":
            return self.norm(self.conv(middle))
        return self.norm(middle)  # norm is called twice


def norm_relevance(norm: Any, h: Tensor, relevance: Tensor) -> Tensor:
    channel = (1, -1, 1, 1)
    factor = ((norm.running_var + norm.eps).rsqrt() * norm.weight.detach()).reshape(channel)
    return factor * h * relevance / stabilize(norm(h).detach())


CONV_RULES: list[tuple[object, Function]] = [
    (rules.Epsilon(), epsilon_rule),
    (rules.ZPlus(), oracles.zplus_rule),
    (rules.Gamma(), oracles.gamma_rule),
]


@pytest.mark.parametrize(("rule", "oracle"), CONV_RULES, ids=lambda v: "" if callable(v) else str(v))
def test_batch_norm_beside_another_use_of_the_convolution(rule: object, oracle: Function) -> None:
    """norm(h) + h: what is added is h as it was, so norm is an affine map by itself."""
    model, x = Branches("conv is used beside the norm").eval(), random(2, 2, 4, 4)
    seed = random(2, 2, 4, 4, seed=1)
    h = model.conv(x).detach()
    y = model.norm(h).detach()
    ratio = seed / stabilize(y + h)
    at_h = h * ratio + norm_relevance(model.norm, h, y * ratio)
    expected = through(oracle, dense_map(model.conv, (2, 4, 4)), x, at_h)
    assert_relevance(explained(model, (x,), seed, epsilon_with((nn.Conv2d, rule))), expected)


@pytest.mark.parametrize(
    "way",
    [
        "conv is called twice, one norm",
        "conv is called twice, two norms",
        "conv and norm are called twice",
        "norm is called twice",
    ],
)
@pytest.mark.parametrize(("rule", "oracle"), CONV_RULES, ids=lambda v: "" if callable(v) else str(v))
def test_batch_norm_of_a_module_called_twice(rule: object, oracle: Function, way: str) -> None:
    """Each call of the convolution is its own map, composed with the norm that follows this call and no other."""
    model, x, seed = Branches(way).eval(), random(2, 2, 4, 4), random(2, 2, 4, 4, seed=1)
    shape = (2, 4, 4)
    with_norm = dense_map(nn.Sequential(model.conv, model.norm), shape, taps_of=model.conv)
    with_other = dense_map(nn.Sequential(model.conv, model.other), shape, taps_of=model.conv)
    middle = model.norm(model.conv(x)).detach().relu()
    at_middle = {
        "conv is called twice, one norm": lambda: through(oracle, dense_map(model.conv, shape), middle, seed),
        "conv is called twice, two norms": lambda: through(oracle, with_other, middle, seed),
        "conv and norm are called twice": lambda: through(oracle, with_norm, middle, seed),
        "norm is called twice": lambda: norm_relevance(model.norm, middle, seed),
    }[way]()
    expected = through(oracle, with_norm, x, at_middle)
    assert_relevance(explained(model, (x,), seed, epsilon_with((nn.Conv2d, rule))), expected)


def test_linear_on_tokens_before_batch_norm() -> None:
    """BatchNorm1d on (B, C, L) normalizes C, not the L features that the linear layer makes."""
    linear = randomize(nn.Linear(5, 4), 1)
    norm: Any = randomize(nn.BatchNorm1d(4), 2)
    model, x = nn.Sequential(linear, norm).eval(), random(3, 4, 5)
    seed = random(3, 4, 4)
    h = linear(x).detach()
    factor = ((norm.running_var + norm.eps).rsqrt() * norm.weight.detach()).reshape(1, 4, 1)
    at_h = factor * h * seed / stabilize(norm(h).detach())
    expected = through(epsilon_rule, dense_map(linear, (4, 5)), x, at_h)
    explain = fxlrp.compile(model, rules="epsilon", example_inputs=x)
    assert_relevance(explain(x, seed=seed), expected, 1e-9)


def test_batch_norm_folded_for_vectors_refuses_tokens() -> None:
    """Without an example, or with one of vectors, folding is right; what comes later may not be like that."""
    model = nn.Sequential(randomize(nn.Linear(5, 4), 1), randomize(nn.BatchNorm1d(4), 2)).eval()
    for example in (None, random(3, 5)):
        explain = fxlrp.compile(model, example_inputs=example)
        called = [getattr(node.target, "__name__", "") for node in explain.nodes if node.op == "call_function"]
        assert called and "batch_norm" not in called
        with pytest.raises(InputError, match="example_inputs"):
            explain(random(3, 4, 5))


def test_batch_norm_of_other_size_than_the_linear_layer_is_not_folded() -> None:
    """7 features, 4 channels: the norm cannot run over the features, so tokens are explained without an example."""
    linear = randomize(nn.Linear(5, 7), 1)
    norm: Any = randomize(nn.BatchNorm1d(4), 2)
    model, x, seed = nn.Sequential(linear, norm).eval(), random(3, 4, 5), random(3, 4, 7)
    h = linear(x).detach()
    factor = ((norm.running_var + norm.eps).rsqrt() * norm.weight.detach()).reshape(1, 4, 1)
    at_h = factor * h * seed / stabilize(norm(h).detach())
    expected = through(epsilon_rule, dense_map(linear, (4, 5)), x, at_h)
    assert_relevance(fxlrp.compile(model, rules="epsilon")(x, seed=seed), expected)


def test_batch_norm_before_the_convolution() -> None:
    """As in densenet: norm, ReLU, convolution; nothing to fold into."""
    norm, conv = randomize(nn.BatchNorm2d(2), 1), randomize(nn.Conv2d(2, 3, 3, padding=1), 2)
    model, x = nn.Sequential(norm, nn.ReLU(inplace=True), conv), random(2, 2, 4, 4)
    seed = random(2, 3, 4, 4)
    hidden = norm(x).detach().relu()
    at_norm = through(epsilon_rule, dense_map(conv, (2, 4, 4)), hidden, seed)
    assert_relevance(explained(model, (x,), seed), norm_relevance(norm, x, at_norm))
