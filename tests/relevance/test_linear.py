"""Every linear rule on every linear layer against its definition on the layer's dense matrix, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
import oracles
from fxlrp import rules
from linear_cases import HIGH, LAYERS, LOW, RULES, LayerCase, RuleCase, applies, batch_of, dense
from oracles import assert_relevance, dense_map, move_back, split_padding, through


def pairs() -> Iterator[Any]:
    """Every rule for the basic layers, every layer for the basic rules, and, slow, all others."""
    for layer, bias, rule in itertools.product(LAYERS, (True, False), RULES):
        basic = bias and (layer.name in ("linear", "conv2d") or rule.name in ("epsilon", "gamma", "zplus", "zbox"))
        if applies(layer, rule):
            name = f"{layer.name}-{'bias' if bias else 'plain'}-{rule.name}"
            yield pytest.param(layer, rule, bias, id=name, marks=[] if basic else pytest.mark.slow)


def expected_relevance(layer: LayerCase, bias: bool, rule: RuleCase, x: Tensor, seed: Tensor) -> Tensor:
    pad, _ = split_padding(layer.build(bias))
    at_padded = through(rule.oracle, dense(layer.name, bias), pad(x), seed, **rule.options(layer))
    return move_back(pad, x, at_padded)


def explained_layer(layer: nn.Module, rule: rules.Rule, x: Tensor, seed: Tensor) -> Tensor:
    return fxlrp.compile(nn.Sequential(layer).eval(), rules=[(type(layer), rule)])(x, seed=seed)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("layer", "rule", "bias"), list(pairs()))
def test_rule_on_dense_matrix(layer: LayerCase, rule: RuleCase, bias: bool) -> None:
    module = layer.build(bias)
    torch.manual_seed(7)
    x = batch_of(layer.shape)
    seed = torch.randn_like(module(x))
    relevance = explained_layer(module, rule.rule(layer), x, seed.detach())
    assert_relevance(relevance, expected_relevance(layer, bias, rule, x, seed.detach()))


OF_EACH_KIND = [
    pytest.param(layer, rule, id=f"{layer.name}-{rule.name}")
    for layer in LAYERS
    if layer.name in ("linear", "conv2d", "conv_transpose2d")
    for rule in RULES
    if applies(layer, rule)
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("layer", "rule"), OF_EACH_KIND)
def test_sample_of_zeros(layer: LayerCase, rule: RuleCase, bias: bool) -> None:
    """Flat, WSquare and ZBox still share by weight, the others give 0, and nothing is NaN."""
    module = layer.build(bias)
    x = torch.zeros(2, *layer.shape, dtype=torch.float64)
    torch.manual_seed(8)
    seed = torch.randn_like(module(x)).detach()
    relevance = explained_layer(module, rule.rule(layer), x, seed)
    assert_relevance(relevance, expected_relevance(layer, bias, rule, x, seed))


@pytest.mark.parametrize(("layer", "rule"), OF_EACH_KIND)
def test_weights_of_one_sign_and_zero(layer: LayerCase, rule: RuleCase) -> None:
    """Pruned weights: Flat still counts a weight that is 0, and a rule whose parts are empty gives 0."""
    module: Any = layer.build(True)
    with torch.no_grad():
        module.weight.abs_().mul_(torch.rand_like(module.weight) < 0.5)
        module.weight[0, 0] = 0.0
    m = dense_map(module, layer.shape)
    torch.manual_seed(9)
    x = batch_of(layer.shape)
    seed = torch.randn_like(module(x)).detach()
    relevance = explained_layer(module, rule.rule(layer), x, seed)
    assert_relevance(relevance, through(rule.oracle, m, x, seed, **rule.options(layer)))


# Numbers worked out by hand: they hold the oracles as well as the rules.

WEIGHT = [[2.0, -1.0, 0.0], [1.0, 3.0, -2.0]]
BIAS = [1.0, -2.0]
X = [1.0, 2.0, -1.0]
SEED = [10.0, 6.0]
# contributions: [2, -2, 0] + 1 = 1 and [1, 6, 2] - 2 = 7
BY_HAND: list[tuple[object, Callable[..., Tensor], dict[str, Any], list[float]]] = [
    (rules.Epsilon(0.0), oracles.epsilon_rule, {"epsilon": 0.0}, [20 + 6 / 7, -20 + 36 / 7, 12 / 7]),
    (rules.Epsilon(1.0), oracles.epsilon_rule, {"epsilon": 1.0}, [10 + 6 / 8, -10 + 36 / 8, 12 / 8]),
    # without the bias the first output is 2 - 2 = 0, where sgn is +1
    (
        rules.Epsilon(0.5, bias=False),
        oracles.epsilon_rule,
        {"epsilon": 0.5, "bias": False},
        [40 + 6 / 9.5, -40 + 36 / 9.5, 12 / 9.5],
    ),
    # 2 of 3 (bias 1); 1, 6, 2 of 9 (bias is negative)
    (rules.ZPlus(0.0), oracles.zplus_rule, {"epsilon": 0.0}, [20 / 3 + 6 / 9, 36 / 9, 12 / 9]),
    (
        rules.ZPlus(0.0, bias=False),
        oracles.zplus_rule,
        {"epsilon": 0.0, "bias": False},
        [10 + 6 / 9, 36 / 9, 12 / 9],
    ),
    # twice the above minus all of 10 on the -2 of the first (the second has but its bias below 0)
    (rules.AlphaBeta(2.0, 1.0, 0.0), oracles.alpha_beta_rule, {"epsilon": 0.0}, [44 / 3, 8 - 10, 24 / 9]),
    # gamma 1, both outputs positive: [4, -2, 0] of 4 (bias 2); [2, 12, 4] of 16 (bias -2)
    (
        rules.Gamma(1.0, 0.0),
        oracles.gamma_rule,
        {"gamma": 1.0, "epsilon": 0.0},
        [10 + 12 / 16, -5 + 72 / 16, 24 / 16],
    ),
    # box [-1, 2]: x W + W⁺ - 2 W⁻ = [4, 0, 0] of 4; [2, 9, 6] of 17
    (
        rules.ZBox(-1.0, 2.0, 0.0),
        oracles.zbox_rule,
        {"low": -1.0, "high": 2.0, "epsilon": 0.0},
        [10 + 12 / 17, 54 / 17, 36 / 17],
    ),
    # [4, 1, 0] of 6; [1, 9, 4] of 18
    (rules.WSquare(0.0), oracles.wsquare_rule, {"epsilon": 0.0}, [40 / 6 + 6 / 18, 10 / 6 + 3, 24 / 18]),
    (
        rules.WSquare(0.0, bias=False),
        oracles.wsquare_rule,
        {"epsilon": 0.0, "bias": False},
        [8 + 6 / 14, 2 + 54 / 14, 24 / 14],
    ),
    (rules.Flat(0.0), oracles.flat_rule, {"epsilon": 0.0}, [16 / 3, 16 / 3, 16 / 3]),
]


def two_by_three() -> nn.Linear:
    layer = nn.Linear(3, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(WEIGHT))
        layer.bias.copy_(torch.tensor(BIAS))
    return layer.eval()


@pytest.mark.parametrize(
    ("rule", "oracle", "options", "numbers"), BY_HAND, ids=lambda v: getattr(v, "__name__", str(v))[:40]
)
def test_numbers_by_hand(
    rule: rules.Rule, oracle: Callable[..., Tensor], options: dict[str, Any], numbers: list[float]
) -> None:
    layer = two_by_three()
    x, seed, expected = (torch.tensor([v], dtype=torch.float64) for v in (X, SEED, numbers))
    assert_relevance(through(oracle, dense_map(layer, (3,)), x, seed, **options), expected, 1e-12)
    assert_relevance(explained_layer(layer, rule, x, seed), expected, 1e-12)


def test_gamma_by_hand_below_zero() -> None:
    """z = [2, -6] + 1 = -3: gamma 1 doubles what is negative, [2, -12] of -9 (bias 1 is not of that sign)."""
    layer = nn.Linear(2, 1).double().eval()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, 3.0]]))
        layer.bias.fill_(1.0)
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    seed = torch.tensor([[9.0]], dtype=torch.float64)
    relevance = explained_layer(layer, rules.Gamma(1.0, 0.0), x, seed)
    assert_relevance(relevance, torch.tensor([[-2.0, 12.0]], dtype=torch.float64), 1e-12)


def test_output_of_exactly_zero() -> None:
    """1 - 1 = 0: epsilon divides by +eps, gamma lets nothing through."""
    layer = nn.Linear(2, 1, bias=False).double().eval()
    nn.init.ones_(layer.weight)
    x = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    seed = torch.ones(1, 1, dtype=torch.float64)
    assert_relevance(explained_layer(layer, rules.Epsilon(0.5), x, seed), torch.tensor([[2.0, -2.0]]).double(), 1e-12)
    assert_relevance(explained_layer(layer, rules.Gamma(0.25), x, seed), torch.zeros(1, 2).double())


# The ways to write a linear layer


class Functional(nn.Module):
    """Calls torch.nn.functional on parameters of its own."""

    def __init__(self, layer: Any, call: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.bias, self.call = layer.weight, layer.bias, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.weight, self.bias)


FUNCTIONAL = [
    ("linear", nn.Linear(6, 4), lambda x, w, b: F.linear(x, w, b), (6,)),
    ("conv1d", nn.Conv1d(2, 3, 3), lambda x, w, b: F.conv1d(x, weight=w, bias=b), (2, 6)),
    ("conv2d", nn.Conv2d(2, 3, 3, padding=1, stride=2), lambda x, w, b: F.conv2d(x, w, b, 2, 1), (2, 5, 5)),
    ("conv3d", nn.Conv3d(2, 3, 2, groups=1), lambda x, w, b: torch.conv3d(x, w, b), (2, 3, 3, 3)),
    (
        "conv_transpose2d",
        nn.ConvTranspose2d(2, 4, 3, stride=2, output_padding=1, groups=2),
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, output_padding=1, groups=2),
        (2, 3, 3),
    ),
]


@pytest.mark.parametrize(
    ("name", "layer", "call", "shape", "rule"),
    [
        pytest.param(*written, rule, id=f"{written[0]}-{rule.name}")
        for written in FUNCTIONAL
        for rule in RULES
        if applies(LayerCase(written[0], type(written[1]), (), {}, written[3]), rule)
    ],
)
def test_functional_call(
    name: str,
    layer: nn.Module,
    call: Callable[[Tensor, Tensor, Tensor], Tensor],
    shape: tuple[int, ...],
    rule: RuleCase,
) -> None:
    like = LayerCase(name, type(layer), (), {}, shape)
    torch.manual_seed(10)
    with torch.no_grad():
        for parameter in layer.double().parameters():
            parameter.normal_()
    x = batch_of(shape)
    seed = torch.randn_like(layer(x)).detach()
    relevance = fxlrp.compile(Functional(layer, call).eval(), rules=[(name, rule.rule(like))])(x, seed=seed)
    assert_relevance(relevance, through(rule.oracle, dense_map(layer, shape), x, seed, **rule.options(like)))


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_module_itself_is_the_layer(rule: RuleCase) -> None:
    layer = next(c for c in LAYERS if c.name == "conv2d")
    module = layer.build(True)
    torch.manual_seed(11)
    x = batch_of(layer.shape)
    seed = torch.randn_like(module(x)).detach()
    relevance = fxlrp.compile(module, rules=[("conv2d", rule.rule(layer))])(x, seed=seed)
    assert_relevance(relevance, expected_relevance(layer, True, rule, x, seed))


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_float32_comes_back_as_float32(rule: RuleCase) -> None:
    layer = next(c for c in LAYERS if c.name == "conv2d")
    torch.manual_seed(13)
    x = batch_of(layer.shape)
    seed = torch.randn_like(layer.build(True)(x)).detach()
    expected = expected_relevance(layer, True, rule, x, seed)
    relevance = explained_layer(layer.build(True).float(), rule.rule(layer), x.float(), seed.float())
    assert relevance.dtype == torch.float32
    assert_relevance(relevance.double(), expected, 1e-3)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_layout_in_memory_changes_nothing(rule: RuleCase) -> None:
    """Channels last, transposed and expanded inputs and seeds."""
    layer = next(c for c in LAYERS if c.name == "conv2d")
    torch.manual_seed(15)
    x = batch_of(layer.shape)
    seed = torch.randn_like(layer.build(True)(x)).detach()
    for memory in (
        lambda t: t.to(memory_format=torch.channels_last),
        lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
        lambda t: t[:1].expand(3, -1, -1, -1),
    ):
        at, to = memory(x), memory(seed)
        relevance = explained_layer(layer.build(True), rule.rule(layer), at, to)
        assert_relevance(relevance, expected_relevance(layer, True, rule, at, to))


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_two_layers_in_a_row(rule: RuleCase) -> None:
    """The relevance of one layer's input is the relevance of the other's output; Pass through the ReLU."""
    torch.manual_seed(14)
    first, second = nn.Conv2d(2, 3, 3, padding=1).double(), nn.Conv2d(3, 2, 2).double()
    model = nn.Sequential(first, nn.ReLU(inplace=True), second).eval()
    layer = LayerCase("two", nn.Conv2d, (), {}, (2, 4, 4))
    x = batch_of(layer.shape)
    hidden = torch.relu(first(x)).detach()
    seed = torch.randn_like(second(hidden)).detach()
    # the inner layer has other channels than the input: a box by channel is for the first alone
    inner_rule, inner_options = (rule.rule(layer), rule.options(layer))
    if rule.name == "zbox-by-channel":
        inner_rule, inner_options = rules.ZBox(low=LOW, high=HIGH), {"low": LOW, "high": HIGH}
    pairs = [("0", rule.rule(layer)), ("2", inner_rule)]
    relevance = fxlrp.compile(model, rules=pairs)(x, seed=seed)
    middle = through(rule.oracle, dense_map(second, (3, 4, 4)), hidden, seed, **inner_options)
    expected = through(rule.oracle, dense_map(first, (2, 4, 4)), x, middle, **rule.options(layer))
    assert_relevance(relevance, expected)
