"""The relevance of weights and biases of linear layers against the dense matrix of the layer, in float64.

The rule gives every connection of the matrix a part of the relevance. A weight has the sum over its connections and
over the samples. A bias counts as the weight of one more input, which is 1.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import oracles
from fxlrp import rules
from linear_cases import LAYERS, RULES, LayerCase, RuleCase, applies, batch_of, dense
from of_parameters import of_parameters, program_with_parameters
from oracles import (
    DenseMap,
    assert_relevance,
    dense_map,
    jacobian,
    random,
    randomize,
    split_padding,
    stabilize,
    through,
)

# A bias is in the denominators of these rules, unless they leave it out.
WITHOUT_BIAS = (rules.ZBox, rules.Flat)


def has_bias(rule: rules.Rule) -> bool:
    return not isinstance(rule, WITHOUT_BIAS) and vars(rule).get("bias", True)


def numbered(layer: nn.Module, shape: tuple[int, ...], name: str) -> Tensor:
    """For every connection of a layer, or every output for the bias, the number of its parameter, from 1; else 0."""
    copied = copy.deepcopy(layer)
    with torch.no_grad():
        for each, parameter in copied.named_parameters():
            parameter.copy_(torch.arange(1.0, 1 + parameter.numel()).reshape(parameter.shape) * (each == name))
    matrix, bias, _ = jacobian(copied, shape)
    return (matrix if name == "weight" else bias).round().long()


def with_bias_as_input(m: DenseMap, bias: bool) -> DenseMap:
    """The same map with one more input for the bias; without the bias, the input has no connection."""
    column = m.bias.unsqueeze(1) if bias else torch.zeros_like(m.bias).unsqueeze(1)
    own_taps = (column != 0).double()
    none = torch.zeros_like(m.bias)
    shape = (m.weight.shape[1] + 1,)
    return DenseMap(torch.cat((m.weight, column), 1), none, torch.cat((m.taps, own_taps), 1), shape, m.output_shape)


def by_connection(layer: LayerCase, m: DenseMap, rule: RuleCase, x: Tensor, seed: Tensor) -> Tensor:
    """The relevance that each connection passes, summed over the samples: one output at a time."""
    flat, seed = x.reshape(len(x), -1), seed.reshape(len(x), -1)
    options = rule.options(layer)
    rows = []
    for output in range(seed.shape[1]):
        alone = torch.zeros_like(seed)
        alone[:, output] = seed[:, output]
        rows.append(rule.oracle(m, flat, alone, **options).sum(0))
    return torch.stack(rows)


def expected(layer: LayerCase, bias: bool, rule: RuleCase, x: Tensor, seed: Tensor) -> dict[str, Tensor]:
    pad, unpadded = split_padding(layer.build(bias))
    m, padded = dense(layer.name, bias), pad(x)
    absorbs = bias and has_bias(rule.rule(layer))
    found = {}
    for name, parameter in unpadded.named_parameters():
        total = torch.zeros(parameter.numel() + 1, dtype=torch.float64)
        if name == "weight":
            passed = by_connection(layer, m, rule, padded, seed)
            total.index_add_(0, numbered(unpadded, padded.shape[1:], name).flatten(), passed.flatten())
        elif absorbs:
            ones = torch.ones(len(x), 1, dtype=torch.float64)
            with_one = torch.cat((padded.reshape(len(x), -1), ones), 1)
            passed = by_connection(layer, with_bias_as_input(m, bias), rule, with_one, seed)[:, -1]
            total.index_add_(0, numbered(unpadded, padded.shape[1:], name), passed)
        found[name] = total[1:].reshape(parameter.shape)
    return found


def pairs() -> Iterator[Any]:
    """Every rule for the basic layers, every layer for LRP-epsilon, and, slow, one in seven of the others."""
    for index, (layer, bias, rule) in enumerate(itertools.product(LAYERS, (True, False), RULES)):
        basic = (bias and rule.name == "epsilon") or layer.name == "linear" or (bias and layer.name == "conv1d-groups")
        if applies(layer, rule) and (basic or index % 7 == 0):
            name = f"{layer.name}-{'bias' if bias else 'plain'}-{rule.name}"
            yield pytest.param(layer, rule, bias, id=name, marks=[] if basic else pytest.mark.slow)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "general"])
@pytest.mark.parametrize(("layer", "rule", "bias"), list(pairs()))
def test_rule_on_dense_matrix(layer: LayerCase, rule: RuleCase, bias: bool, optimize: bool) -> None:
    module = layer.build(bias)
    x = batch_of(layer.shape)
    seed = random(*module(x).shape, seed=5)
    pairs_of_rules = [(type(module), rule.rule(layer))]
    _, actual = of_parameters(nn.Sequential(module), pairs_of_rules, [x], seed, optimize=optimize)
    for name, relevance in expected(layer, bias, rule, x, seed).items():
        assert_relevance(actual[f"0.{name}"], relevance)


OF_EACH_KIND = [layer for layer in LAYERS if layer.name in ("linear", "conv2d", "conv_transpose2d-groups")]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize(
    ("layer", "rule"),
    [
        pytest.param(layer, rule, id=f"{layer.name}-{rule.name}")
        for layer in OF_EACH_KIND
        for rule in RULES
        if applies(layer, rule)
    ],
)
def test_between_two_relus(layer: LayerCase, rule: RuleCase, bias: bool) -> None:
    """The cheaper steps, for an input that is never negative and relevance that is zero where the ReLU is."""
    module = layer.build(bias)
    x = batch_of(layer.shape)
    hidden = module(x.relu()).relu().detach()
    head = randomize(nn.Linear(hidden[0].numel(), 3))
    model = nn.Sequential(nn.ReLU(), module, nn.ReLU(), nn.Flatten(), head)
    seed = random(len(x), 3, seed=6)
    at_head = through(oracles.epsilon_rule, dense_map(head, (hidden[0].numel(),)), hidden.flatten(1), seed)
    wanted = expected(layer, bias, rule, x.relu(), at_head.reshape(hidden.shape))
    _, actual = of_parameters(model, [("1", rule.rule(layer))], [x], seed)
    for name, relevance in wanted.items():
        assert_relevance(actual[f"1.{name}"], relevance)


CONSERVING = [rule for rule in RULES if rule.name not in ("epsilon-large", "flat-large-stabilizer")]


@pytest.mark.parametrize("rule", CONSERVING, ids=lambda rule: rule.name)
@pytest.mark.parametrize("layer", OF_EACH_KIND, ids=lambda layer: layer.name)
def test_weights_and_bias_have_all_relevance(layer: LayerCase, rule: RuleCase) -> None:
    """``sum R_W + sum R_b = sum R z / s(z)``, up to stabilizers; and without a bias as much as the input."""
    if not applies(layer, rule):
        pytest.skip("a box by channel is for convolutions")
    module = layer.build(True)
    x = batch_of(layer.shape)
    seed = random(*module(x).shape, seed=7)
    of_inputs, actual = of_parameters(nn.Sequential(module), [("0", rule.rule(layer))], [x], seed)
    torch.testing.assert_close(actual["0.weight"].sum(), of_inputs[0].sum(), rtol=1e-9, atol=1e-9)
    if rule.name == "epsilon":
        z = module(x).detach()
        passed = (seed * z / stabilize(z)).sum()
        torch.testing.assert_close(actual["0.weight"].sum() + actual["0.bias"].sum(), passed, rtol=1e-10, atol=1e-10)


def test_numbers_by_hand() -> None:
    """Two samples of LRP-0: contributions [2, -2] + 1 = 1 of 10 and [4, -1] + 1 = 4 of 8."""
    layer = nn.Linear(2, 1).double().eval()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, -1.0]]))
        layer.bias.fill_(1.0)
    x, seed = (torch.tensor(values, dtype=torch.float64) for values in ([[1.0, 2.0], [2.0, 1.0]], [[10.0], [8.0]]))
    _, actual = of_parameters(nn.Sequential(layer), [("0", rules.Epsilon(0.0))], [x], seed)
    assert_relevance(actual["0.weight"], torch.tensor([[20.0 + 8.0, -20.0 - 2.0]]).double(), 1e-12)
    assert_relevance(actual["0.bias"], torch.tensor([10.0 + 2.0]).double(), 1e-12)


@pytest.mark.parametrize("name", ["linear", "conv2d-same-even", "conv1d", "conv_transpose2d"])
def test_a_layer_without_a_batch(name: str) -> None:
    layer = next(each for each in LAYERS if each.name == name)
    rule = next(each for each in RULES if each.name == "epsilon")
    module = layer.build(True)
    x = batch_of(layer.shape)[:1]
    seed = random(*module(x).shape, seed=8)
    _, actual = of_parameters(nn.Sequential(module), [("0", rules.Epsilon())], [x[0]], seed[0])
    for parameter, relevance in expected(layer, True, rule, x, seed).items():
        assert_relevance(actual[f"0.{parameter}"], relevance)


class OneRow(nn.Module):
    """A dense layer with a weight of one dimension, which gives numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(random(4))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)


def test_a_weight_of_one_dimension() -> None:
    model, x, seed = OneRow(), random(3, 4, seed=1), random(3, seed=2)
    r = seed / stabilize(model(x).detach())
    _, actual = of_parameters(model, "epsilon", [x], seed)
    assert_relevance(actual["weight"], (model.weight * (r.unsqueeze(1) * x).sum(0)).detach())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("name", ["linear", "conv2d-same-even", "conv_transpose2d"])
def test_vmap_over_relevance(name: str, rule: RuleCase) -> None:
    """Several initial relevances at once: no step writes them into memory that has them once."""
    layer = next(each for each in LAYERS if each.name == name)
    if not applies(layer, rule):
        pytest.skip("a box by channel is for convolutions")
    module = layer.build(True)
    x = batch_of(layer.shape)
    program = program_with_parameters(
        nn.Sequential(module), [("0", rule.rule(layer))], ["0.weight", "0.bias"], optimize=False
    ).graph_module
    seeds = random(4, *module(x).shape, seed=9)
    with torch.no_grad():
        together = torch.func.vmap(lambda seed: program(x, seed)[1:])(seeds)
        for index, seed in enumerate(seeds):
            for several, one in zip(together, program(x, seed)[1:], strict=True):
                for actual, wanted in zip(several, one, strict=True):
                    assert_relevance(actual[index], wanted)


# Their denominators do not cancel, or are the relevance itself.
IN_HALF_PRECISION = [
    rule for rule in RULES if rule.name in "epsilon zplus alpha2-beta1 gamma zbox wsquare flat".split()
]


@pytest.mark.parametrize("rule", IN_HALF_PRECISION, ids=lambda rule: rule.name)
@pytest.mark.parametrize("name", ["linear", "conv2d", "conv_transpose2d"])
def test_half_precision_and_autocast(name: str, rule: RuleCase) -> None:
    """Relevance has the type of the parameter, and its numbers to the precision of bfloat16."""
    layer = next(each for each in LAYERS if each.name == name)
    module = layer.build(True)
    x = batch_of(layer.shape)
    rules_of_layer = [("0", rule.rule(layer))]
    _, wanted = of_parameters(nn.Sequential(module), rules_of_layer, [x], module(x).detach())
    half = nn.Sequential(copy.deepcopy(module).bfloat16())
    _, actual = of_parameters(half, rules_of_layer, [x.bfloat16()], half(x.bfloat16()).detach())
    single = nn.Sequential(module.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, mixed = of_parameters(single, rules_of_layer, [x.float()], single(x.float()).detach())
    for found in (actual, mixed):
        for parameter, relevance in found.items():
            assert (relevance.double() - wanted[parameter]).norm() <= 0.05 * wanted[parameter].norm(), parameter
