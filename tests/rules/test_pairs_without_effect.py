"""Pairs, presets and extensions that cannot have the effect that the user wants."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxlrp
from fxlrp import presets, rules
from fxlrp.errors import RuleError

GAMMA, BOX, EPSILON = rules.Gamma(0.25), rules.ZBox(0.0, 1.0), rules.Epsilon(0.5)


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(1), nn.Linear(64, 5)).eval()


class NeedsExport(nn.Module):
    """Symbolic tracing cannot follow the loop over a size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(x.shape[1] // 2):
            x = torch.relu(self.layer(x))
        return x


def rules_of(rules: Any) -> dict[str, Any]:
    nodes = fxlrp.compile(model(), rules).nodes
    return {node.name: node.meta["fxlrp"].rule for node in nodes if "fxlrp" in node.meta}


@pytest.mark.parametrize(
    ("pairs", "hidden", "taker"),
    [
        ([("0*", GAMMA), ("0", BOX)], "user pair 1, .'0', ZBox", "user pair 0, .'0.', Gamma"),
        ([(nn.Conv2d, GAMMA), (rules.FirstLayer(), BOX)], "user pair 1, .'first layer'", "user pair 0, .'Conv2d'"),
        ([("0", BOX), ("2", GAMMA), ("conv2d", EPSILON)], "user pair 2", "user pair 0.*user pair 1"),
        ([("conv2d", GAMMA), ("linear", EPSILON), ("conv2d", BOX)], "user pair 2", "user pair 0"),
    ],
    ids=["glob", "class", "several", "twice"],
)
def test_a_pair_behind_pairs_that_take_all_its_nodes(pairs: Any, hidden: str, taker: str) -> None:
    for given in (pairs, presets.epsilon_plus_flat().override(pairs)):
        with pytest.raises(RuleError, match=f"{hidden}.*no effect.*{taker}.*comes first"):
            fxlrp.compile(model(), given)


def test_a_pair_that_keeps_a_node_is_no_error() -> None:
    found = rules_of([("0", BOX), ("conv2d", GAMMA)])
    assert (found["_0"], found["_2"]) == (BOX, GAMMA)


def test_a_pair_whose_rule_fits_where_the_earlier_one_does_not() -> None:
    """Both match everything: the rule of the first fits convolutions and dense layers, that of the second the ReLU."""
    found = rules_of([("*", GAMMA), ("*", rules.Custom(lambda *_, relevance, **__: relevance))])
    assert (found["_0"], type(found["_1"])) == (GAMMA, rules.Custom)


def test_a_later_override_may_take_all_nodes_of_an_earlier_one() -> None:
    """This is what override is for: a preset that somebody else made, with other rules."""
    theirs = presets.epsilon().override([("conv2d", GAMMA), ("linear", EPSILON)])
    found = rules_of(theirs.override([("conv2d", BOX)]))
    assert (found["_0"], found["_2"], found["_4"]) == (BOX, BOX, EPSILON)
    with pytest.raises(RuleError, match=r"user pair 1.*no effect.*user pair 0"):
        rules_of(presets.epsilon().override([("conv2d", GAMMA), ("0", BOX)]).override([("linear", EPSILON)]))


def test_the_pairs_of_a_preset_may_be_hidden() -> None:
    found = rules_of(presets.epsilon_plus_flat().override([("conv2d", GAMMA)]))
    assert (found["_0"], found["_2"]) == (GAMMA, GAMMA)


@pytest.mark.parametrize("capture", ["auto", "export"])
@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("conv2d", GAMMA)], "'conv2d'.*matches nothing"),
        ([("layer", rules.Uniform())], "fits none of them"),
        ([("linear", GAMMA), ("layer", EPSILON)], "no effect"),
    ],
    ids=["nothing", "unfit", "hidden"],
)
def test_with_the_second_front_end(pairs: Any, message: str, capture: Any) -> None:
    with pytest.raises(RuleError, match=message) as caught:
        fxlrp.compile(NeedsExport().eval(), pairs, capture=capture, example_inputs=torch.rand(2, 4))
    assert "trac" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (presets.epsilon, r"call it, fxlrp\.presets\.epsilon\(\)"),
        (presets.epsilon_gamma_box, r"call it, fxlrp\.presets\.epsilon_gamma_box\(low=\.\.\., high=\.\.\.\)"),
        (rules.Epsilon, r"single rule.*Epsilon\(\.\.\.\)"),
        ([("conv2d", rules.Gamma)], r"rules\[0\] has the class Gamma.*call it"),
        (print, "must be a preset's name"),
    ],
    ids=["preset", "needs parameters", "rule class", "class in a pair", "function"],
)
def test_what_was_not_called(given: Any, message: str) -> None:
    with pytest.raises(RuleError, match=message):
        fxlrp.compile(model(), given)


def test_an_extension_whose_result_is_not_used() -> None:
    extension = fxlrp.rule_for(torch.erf)(lambda x, *, out, relevance: relevance)

    class Unused(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.erf(x)
            return torch.relu(x)

    for module in (Unused(), nn.ReLU()):
        with pytest.raises(RuleError, match="extension for 'erf' has no effect"):
            fxlrp.compile(module.eval(), extensions=[extension])


def test_an_extension_without_relevance_is_called_all_the_same() -> None:
    extension = fxlrp.rule_for(torch.erf)(lambda x, *, out, relevance: relevance)

    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(torch.erf(x))

    explain = fxlrp.compile(Gate().eval(), extensions=[extension])
    assert not [node for node in explain.nodes if "erf" in node.name and "fxlrp" in node.meta]


def test_a_predicate_may_hide_and_be_hidden() -> None:
    def is_first(node: fx.Node) -> bool:
        return node.name == "_0"

    assert rules_of([(is_first, BOX), ("conv2d", GAMMA)])["_0"] == BOX
    with pytest.raises(RuleError, match=r"'is_first'.*no effect"):
        rules_of([("conv2d", GAMMA), (is_first, BOX)])
