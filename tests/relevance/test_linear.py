"""Every linear rule on every linear layer against its definition on the layer's dense matrix, in float64."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
import oracles
from fxlrp import rules
from oracles import DenseMap, assert_relevance, dense_map, move_back, split_padding, through

# What is tried: layers x rules


@dataclass(frozen=True)
class LayerCase:
    name: str
    kind: Callable[..., nn.Module]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    shape: tuple[int, ...]

    def build(self, bias: bool) -> nn.Module:
        # Not hash(name), which differs from run to run.
        torch.manual_seed(sum(map(ord, self.name)) + bias)
        return self.kind(*self.arguments, **self.options, bias=bias).double().eval()


def case(
    name: str,
    kind: Callable[..., nn.Module],
    arguments: tuple[Any, ...],
    shape: tuple[int, ...],
    **options: Any,
) -> LayerCase:
    return LayerCase(name, kind, arguments, options, shape)


LAYERS = [
    case("linear", nn.Linear, (6, 4), (6,)),
    case("linear-one-output", nn.Linear, (6, 1), (6,)),
    case("linear-tokens", nn.Linear, (5, 4), (3, 5)),
    case("linear-grid", nn.Linear, (4, 3), (2, 3, 4)),
    case("conv1d", nn.Conv1d, (3, 4, 3), (3, 7), padding=1),
    case("conv1d-no-padding", nn.Conv1d, (2, 3, 4), (2, 7)),
    case("conv1d-stride-dilation", nn.Conv1d, (2, 3, 3), (2, 10), stride=2, dilation=2, padding=2),
    case("conv1d-groups", nn.Conv1d, (4, 6, 3), (4, 6), groups=2, padding=1),
    case("conv1d-valid", nn.Conv1d, (2, 3, 3), (2, 6), padding="valid", dilation=2),
    case("conv1d-same-odd", nn.Conv1d, (2, 3, 3), (2, 6), padding="same"),
    case("conv1d-same-even", nn.Conv1d, (2, 3, 4), (2, 6), padding="same"),
    case("conv1d-same-even-dilation", nn.Conv1d, (2, 3, 2), (2, 7), padding="same", dilation=3),
    case("conv1d-same-circular", nn.Conv1d, (2, 3, 4), (2, 6), padding="same", padding_mode="circular"),
    case("conv1d-reflect", nn.Conv1d, (2, 3, 3), (2, 6), padding=2, padding_mode="reflect"),
    case("conv1d-replicate", nn.Conv1d, (2, 3, 3), (2, 6), padding=2, padding_mode="replicate", stride=2),
    case("conv2d", nn.Conv2d, (3, 4, 3), (3, 5, 5), padding=1),
    case("conv2d-pointwise", nn.Conv2d, (3, 4, 1), (3, 4, 3)),
    case("conv2d-leaves-pixels-out", nn.Conv2d, (2, 3, 1), (2, 5, 4), stride=2),
    case("conv2d-stride-remainder", nn.Conv2d, (2, 3, 3), (2, 6, 8), stride=2),
    case("conv2d-stride-over-kernel", nn.Conv2d, (2, 3, 2), (2, 7, 8), stride=3, padding=1),
    case(
        "conv2d-asymmetric",
        nn.Conv2d,
        (2, 3, (2, 3)),
        (2, 5, 6),
        stride=(2, 1),
        padding=(0, 1),
        dilation=(1, 2),
    ),
    case("conv2d-dilation", nn.Conv2d, (2, 3, 3), (2, 6, 6), dilation=2, padding=2),
    case("conv2d-groups", nn.Conv2d, (4, 6, 3), (4, 4, 4), groups=2, padding=1, stride=2),
    case("conv2d-depthwise", nn.Conv2d, (3, 6, 3), (3, 5, 5), groups=3, padding=1),
    case("conv2d-wide-padding", nn.Conv2d, (2, 3, 2), (2, 3, 3), padding=2),
    case("conv2d-valid", nn.Conv2d, (2, 3, 3), (2, 5, 5), padding="valid"),
    case("conv2d-same-odd", nn.Conv2d, (2, 3, 3), (2, 4, 5), padding="same", dilation=2),
    case("conv2d-same-even", nn.Conv2d, (2, 3, (2, 4)), (2, 5, 5), padding="same"),
    case("conv2d-same-groups", nn.Conv2d, (4, 4, 2), (4, 4, 4), padding="same", groups=2),
    case("conv2d-reflect", nn.Conv2d, (2, 3, 3), (2, 5, 5), padding=1, padding_mode="reflect"),
    case("conv2d-circular", nn.Conv2d, (2, 3, 3), (2, 5, 5), padding=(2, 1), padding_mode="circular", stride=2),
    case("conv2d-replicate", nn.Conv2d, (2, 3, 3), (2, 4, 4), padding=(1, 2), padding_mode="replicate"),
    case("conv2d-same-reflect", nn.Conv2d, (2, 2, (2, 3)), (2, 4, 5), padding="same", padding_mode="reflect"),
    case("conv2d-same-replicate", nn.Conv2d, (2, 2, 4), (2, 4, 5), padding="same", padding_mode="replicate"),
    case("conv3d", nn.Conv3d, (2, 3, 2), (2, 3, 4, 3), padding=1, stride=(1, 2, 1)),
    case("conv3d-groups-dilation", nn.Conv3d, (2, 4, (1, 2, 2)), (2, 2, 4, 4), groups=2, dilation=(1, 2, 1)),
    case("conv3d-same", nn.Conv3d, (2, 2, (2, 3, 1)), (2, 3, 3, 3), padding="same"),
    case("conv3d-circular", nn.Conv3d, (1, 2, 3), (1, 3, 3, 3), padding=1, padding_mode="circular"),
    case("conv3d-replicate", nn.Conv3d, (1, 2, 2), (1, 3, 3, 2), padding=1, padding_mode="replicate"),
    case("conv3d-reflect", nn.Conv3d, (1, 2, 2), (1, 3, 3, 2), padding=1, padding_mode="reflect"),
    case("conv_transpose1d", nn.ConvTranspose1d, (3, 2, 3), (3, 5)),
    case(
        "conv_transpose1d-stride",
        nn.ConvTranspose1d,
        (2, 3, 3),
        (2, 5),
        stride=3,
        padding=1,
        output_padding=2,
    ),
    case("conv_transpose1d-gaps", nn.ConvTranspose1d, (2, 3, 1), (2, 4), stride=2, output_padding=1),
    case("conv_transpose2d", nn.ConvTranspose2d, (2, 3, 2), (2, 3, 4), stride=2),
    case(
        "conv_transpose2d-overlap",
        nn.ConvTranspose2d,
        (2, 3, 3),
        (2, 3, 3),
        stride=2,
        padding=1,
        output_padding=1,
    ),
    case("conv_transpose2d-groups", nn.ConvTranspose2d, (4, 6, (2, 3)), (4, 3, 3), groups=2, padding=(0, 1)),
    case("conv_transpose2d-dilation", nn.ConvTranspose2d, (2, 2, 2), (2, 3, 3), dilation=2, stride=(1, 2)),
    case("conv_transpose3d", nn.ConvTranspose3d, (2, 2, 2), (2, 2, 3, 2), stride=(1, 2, 2), padding=(1, 0, 1)),
    case(
        "conv_transpose3d-groups",
        nn.ConvTranspose3d,
        (2, 4, 2),
        (2, 2, 2, 3),
        groups=2,
        stride=2,
        output_padding=(1, 0, 1),
    ),
]

LOW, HIGH = -3.0, 3.5


@dataclass(frozen=True)
class RuleCase:
    name: str
    rule: Callable[[LayerCase], rules.Rule]
    oracle: Callable[..., Tensor]
    options: Callable[[LayerCase], dict[str, Any]]


def rule_case(name: str, rule: Callable[..., rules.Rule], oracle: Callable[..., Tensor], **options: Any) -> RuleCase:
    """The same options for both, by the names of the rules; to the oracles every stabilizer is epsilon."""
    renamed = {("epsilon" if key == "stabilizer" else key): value for key, value in options.items()}
    return RuleCase(name, lambda _: rule(**options), oracle, lambda _: renamed)


def channel_box(layer: LayerCase) -> tuple[tuple[float, ...], tuple[float, ...]]:
    channels = layer.shape[0]
    return tuple(LOW + 0.5 * i for i in range(channels)), tuple(HIGH + 0.25 * i for i in range(channels))


def box_rule(layer: LayerCase) -> rules.Rule:
    low, high = channel_box(layer)
    return rules.ZBox(low=low, high=high)


def box_options(layer: LayerCase) -> dict[str, Any]:
    low, high = channel_box(layer)
    return {"low": low, "high": high}


RULES = [
    rule_case("epsilon", rules.Epsilon, oracles.epsilon_rule),
    rule_case("epsilon-large", rules.Epsilon, oracles.epsilon_rule, epsilon=0.25),
    rule_case("epsilon-no-bias", rules.Epsilon, oracles.epsilon_rule, bias=False),
    rule_case("lrp-0", rules.Epsilon, oracles.epsilon_rule, epsilon=0.0),
    rule_case("zplus", rules.ZPlus, oracles.zplus_rule),
    rule_case("zplus-no-bias", rules.ZPlus, oracles.zplus_rule, bias=False, stabilizer=1e-3),
    rule_case("alpha2-beta1", rules.AlphaBeta, oracles.alpha_beta_rule),
    rule_case("alpha1-beta0", rules.AlphaBeta, oracles.alpha_beta_rule, alpha=1.0, beta=0.0),
    rule_case(
        "alpha1.5-beta0.5-no-bias",
        rules.AlphaBeta,
        oracles.alpha_beta_rule,
        alpha=1.5,
        beta=0.5,
        stabilizer=1e-3,
        bias=False,
    ),
    rule_case("gamma", rules.Gamma, oracles.gamma_rule),
    rule_case("gamma-large", rules.Gamma, oracles.gamma_rule, gamma=10.0, stabilizer=1e-3),
    rule_case("gamma-no-bias", rules.Gamma, oracles.gamma_rule, gamma=0.5, bias=False),
    rule_case("gamma-no-bias-in-sign", rules.Gamma, oracles.gamma_rule, gamma=0.5, bias=False, bias_in_sign=False),
    rule_case("zbox", rules.ZBox, oracles.zbox_rule, low=LOW, high=HIGH),
    RuleCase("zbox-by-channel", box_rule, oracles.zbox_rule, box_options),
    rule_case("wsquare", rules.WSquare, oracles.wsquare_rule),
    rule_case("wsquare-no-bias", rules.WSquare, oracles.wsquare_rule, bias=False, stabilizer=1e-3),
    rule_case("flat", rules.Flat, oracles.flat_rule),
    rule_case("flat-large-stabilizer", rules.Flat, oracles.flat_rule, stabilizer=0.5),
]


# Two dimensions or more of features have no channel first: a box by channel is for convolutions.
def applies(layer: LayerCase, rule: RuleCase) -> bool:
    return rule.name != "zbox-by-channel" or layer.kind is not nn.Linear


def pairs() -> Iterator[Any]:
    """Every rule for the basic layers, every layer for the basic rules, and, slow, all others."""
    for layer, bias, rule in itertools.product(LAYERS, (True, False), RULES):
        basic = bias and (layer.name in ("linear", "conv2d") or rule.name in ("epsilon", "gamma", "zplus", "zbox"))
        if applies(layer, rule):
            name = f"{layer.name}-{'bias' if bias else 'plain'}-{rule.name}"
            yield pytest.param(layer, rule, bias, id=name, marks=[] if basic else pytest.mark.slow)


@functools.cache
def dense(name: str, bias: bool) -> DenseMap:
    """The matrix of a layer, without its padding where that is not by zeros; made once for all rules."""
    layer = next(c for c in LAYERS if c.name == name)
    pad, linear = split_padding(layer.build(bias))
    padded = pad(torch.zeros(1, *layer.shape, dtype=torch.float64))
    return dense_map(linear, padded.shape[1:])


def batch_of(shape: tuple[int, ...]) -> Tensor:
    """Three samples: of both signs, non-negative as after a ReLU, and one that is half exact zeros."""
    signed, other, holes = torch.randn(3, *shape, dtype=torch.float64)
    return torch.stack([signed, other.abs(), holes * (torch.rand(shape) < 0.5)])


def expected_relevance(layer: LayerCase, bias: bool, rule: RuleCase, x: Tensor, seed: Tensor) -> Tensor:
    pad, _ = split_padding(layer.build(bias))
    at_padded = through(rule.oracle, dense(layer.name, bias), pad(x), seed, **rule.options(layer))
    return move_back(pad, x, at_padded)


def explained_layer(layer: nn.Module, rule: rules.Rule, x: Tensor, seed: Tensor) -> Tensor:
    return fxlrp.compile(nn.Sequential(layer).eval(), rules=[(type(layer), rule)])(x, seed=seed)


@pytest.mark.parametrize(("layer", "rule", "bias"), pairs())
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
