"""Linear layers and the rules for them, each with its oracle on the dense matrix of the layer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import oracles
from fxlrp import rules
from oracles import DenseMap, dense_map, split_padding


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
