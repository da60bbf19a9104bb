"""Finding where it goes wrong: the relevance of every node, the logs of the passes, the stages of a compilation."""

from __future__ import annotations

import copy
import logging
import math
import operator
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import zoo
from fxlrp import presets, rules
from fxlrp.debugging import logs
from fxlrp.debugging.non_finite import NotFinite
from fxlrp.debugging.relevances import Relevances
from fxlrp.errors import InputError
from fxlrp.passes import pipeline
from fxlrp.passes.base import Pass
from fxlrp.program import Program
from oracles import DenseMap, One, assert_relevance, dense_map, epsilon_rule, random, randomize, stabilize

FRONT_ENDS = ("symbolic", "export")
ROOT = Path(__file__).resolve().parent.parent


class Small(nn.Module):
    """A convolution and a dense layer, both with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.head = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        return self.head(x.flatten(1))


def small() -> Small:
    return randomize(Small().double().eval())  # type: ignore[return-value]


# ----------------------------------------------------------------------------------------------------
# The relevance of every node


def shares(m: DenseMap, x: Tensor, r: Tensor, epsilon: float, bias: bool = True) -> dict[str, float]:
    """What becomes of the relevance of a dense map, from the definition of LRP-epsilon."""
    own = m.bias if bias else torch.zeros_like(m.bias)
    z = x @ m.weight.T + own
    per_unit = r / stabilize(z, epsilon)
    return {
        "received": float(r.sum()),
        "handed_on": float((per_unit * (x @ m.weight.T)).sum()),
        "bias": float((per_unit * own).sum()),
        "stabilizer": float((per_unit * epsilon * torch.where(z < 0, -1.0, 1.0)).sum()),
    }


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("bias", [True, False])
def test_what_linear_maps_absorb_is_the_biases_and_the_stabilizers(capture: Any, bias: bool) -> None:
    model, x, epsilon = small(), random(2, 2, 6, 6), 0.3
    pairs = [(name, rules.Epsilon(epsilon, bias=bias)) for name in ("conv2d", "linear")]
    explain = fxlrp.compile(model, pairs, example_inputs=x, capture=capture)
    found = explain.debug(x, target=1)

    conv, head = dense_map(model.conv, (2, 6, 6)), dense_map(model.head, (48,))
    hidden = model.conv(x).relu().flatten(1).detach()
    r_head = torch.zeros(2, 4, dtype=torch.float64)
    r_head[:, 1] = model(x)[:, 1].detach()
    r_conv = epsilon_rule(head, hidden, r_head, epsilon=epsilon, bias=bias)
    for name, m, value, r in (("head", head, hidden, r_head), ("conv", conv, x.flatten(1), r_conv)):
        expected, row = shares(m, value, r, epsilon, bias), found[name]
        assert row.received.sum == pytest.approx(expected["received"], rel=1e-9)
        assert row.handed_on == pytest.approx(expected["handed_on"], rel=1e-9)
        assert row.absorbed == pytest.approx(expected["received"] - expected["handed_on"], rel=1e-9)
        assert row.bias == pytest.approx(expected["bias"], rel=1e-9)
        assert row.stabilizer == pytest.approx(expected["stabilizer"], rel=1e-9)
        assert abs(expected["stabilizer"]) > 1e-2 and (abs(expected["bias"]) > 1e-2 or not bias)
        assert (row.received.min, row.received.max) == pytest.approx((float(r.min()), float(r.max())), rel=1e-9)
    assert found.explained == pytest.approx(float(r_head.sum()))
    assert found.at_inputs == pytest.approx(float(explain(x, target=1).sum()))
    absorbed = sum(row.absorbed for row in found.nodes if row.absorbed is not None)
    assert found.explained - absorbed == pytest.approx(found.at_inputs)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(2, 3, 2, stride=2), (2, 6)),
        (nn.Conv2d(2, 4, 3, groups=2, padding=1), (2, 4, 4)),
        (nn.ConvTranspose2d(2, 3, 2, stride=2), (2, 3, 3)),
        (nn.Conv3d(1, 2, 2), (1, 3, 3, 3)),
        (nn.Linear(5, 3), (4, 5)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_the_share_of_the_bias_of_every_linear_map(layer: nn.Module, shape: tuple[int, ...]) -> None:
    layer = randomize(copy.deepcopy(layer).double().eval())
    x = random(2, *shape)
    (row, _) = fxlrp.compile(layer, presets.epsilon(0.2)).debug(x, seed=torch.ones_like).nodes
    m = dense_map(layer, shape)
    expected = shares(m, x.flatten(1), torch.ones(2, m.bias.numel(), dtype=torch.float64), 0.2)
    assert row.bias == pytest.approx(expected["bias"], rel=1e-9)
    assert row.stabilizer == pytest.approx(expected["stabilizer"], rel=1e-9)


AFFINE: dict[str, tuple[nn.Module, Tensor]] = {
    "layer_norm": (nn.LayerNorm(6), torch.zeros(6)),
    "layer_norm of two dimensions": (nn.LayerNorm((4, 6)), torch.zeros(4, 6)),
    "group_norm": (nn.GroupNorm(2, 4), torch.zeros(4)),
    "layer_norm without a bias": (nn.LayerNorm(6, bias=False), torch.zeros(6)),
    "a constant that is added": (One(lambda x: x + 0.75), torch.tensor(0.75)),
    "a constant that is subtracted": (One(lambda x: x - 0.75), torch.tensor(-0.75)),
    "what a constant is subtracted from": (One(lambda x: 0.75 - x), torch.tensor(0.75)),
    "no constant": (One(lambda x: x + x.flip(1)), torch.tensor(0.0)),
    "mean": (One(lambda x: x.mean(1)), torch.tensor(0.0)),
}


@pytest.mark.parametrize("name", AFFINE)
def test_the_shares_of_other_affine_maps(name: str) -> None:
    module, constant = AFFINE[name]
    module, x, epsilon = randomize(copy.deepcopy(module)), random(2, 4, 6), 0.2
    row = fxlrp.compile(module, presets.epsilon(epsilon)).debug(x, seed=torch.ones_like).nodes[0]
    with torch.no_grad():
        z = module(x)
    bias = getattr(module, "bias", None)
    own = constant.double() if bias is None else bias.detach()
    own = own[:, None] if name == "group_norm" else own
    per_unit = 1 / stabilize(z, epsilon)
    assert row.bias == pytest.approx(float((own * per_unit).sum()), rel=1e-9)
    assert row.stabilizer == pytest.approx(float((1 - z * per_unit).sum()), rel=1e-9)


def test_a_folded_batch_norm_is_part_of_the_bias() -> None:
    torch.manual_seed(0)
    model = zoo.initialise(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten()).double())
    x = random(2, 1, 5, 5)
    row = fxlrp.compile(model, presets.epsilon(0.2)).debug(x, seed=torch.ones_like)["_0"]
    m = dense_map(model[:2], (1, 5, 5), taps_of=model[:1])
    expected = shares(m, x.flatten(1), torch.ones(2, 18, dtype=torch.float64), 0.2)
    assert row.bias == pytest.approx(expected["bias"], rel=1e-9)


def test_where_the_formula_does_not_tell_them_apart_there_is_one_column() -> None:
    model, x = small(), random(2, 2, 6, 6)
    row = fxlrp.compile(model, "epsilon_plus").debug(x, target=1)["conv"]
    assert row.absorbed != 0 and row.bias is None and row.stabilizer is None


@pytest.mark.parametrize("preset", ["epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1"])
@pytest.mark.parametrize("name", ["residual", "batch_norm_after_transposed"])
def test_what_is_kept_is_what_an_explainer_for_that_node_gives(name: str, preset: str) -> None:
    model, (x,) = zoo.small_net(name)
    explain = fxlrp.compile(model, preset)
    found = explain.debug(x, target=1, keep=True)
    assert [row.node for row in found.nodes][-1] == "x" and len(found.nodes) > 5
    assert_relevance(found["x"].relevance, explain(x, target=1), 1e-9)
    for row in found.nodes:
        relevance = fxlrp.compile(model, preset, at=row.node)(x, target=1)
        assert_relevance(row.relevance, relevance, 1e-9)
        assert row.received.shapes == (tuple(relevance.shape),)
        assert row.received.sum == pytest.approx(float(relevance.sum()), rel=1e-9, abs=1e-12)


def test_nodes_stand_in_order_from_the_output_back() -> None:
    model, x = small(), random(2, 2, 6, 6)
    explain = fxlrp.compile(model)
    names = [row.node for row in explain.debug(x).nodes]
    forward = [node.name for node in explain.nodes if node.name in names]
    assert names == forward[::-1] and names[0] == "head"
    row = explain.debug(x)["conv"]
    assert (row.place.operation, row.place.module, row.place.rule) == ("conv2d", "conv", "ZPlus()")
    assert row.place.source.endswith("x = torch.relu(self.conv(x))") and "test_debug.py:" in row.place.source


def test_relevance_that_is_not_kept_is_an_error_and_so_is_an_unknown_node() -> None:
    found = fxlrp.compile(small()).debug(random(1, 2, 6, 6))
    with pytest.raises(InputError, match="keep=True"):
        _ = found["conv"].relevance
    with pytest.raises(KeyError, match="no relevance passes a node 'con'; there are conv"):
        found["con"]


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_it_ends_where_relevance_is_asked_for(capture: Any) -> None:
    model, x = small(), random(2, 2, 6, 6)
    explain = fxlrp.compile(model, at="conv", capture=capture, example_inputs=x)
    found = explain.debug(x, target=1, keep=True)
    assert found.nodes[0].node == "head" and found.nodes[-1].node == "conv" and found.nodes[-1].absorbed is None
    assert "x" not in [row.node for row in found.nodes]
    assert_relevance(found["conv"].relevance, explain(x, target=1), 0.0)
    # What the convolution's own rule does does not matter here.
    with torch.no_grad():
        model.conv.weight[0, 0, 0, 0] = 1e308
    quiet = fxlrp.compile(model, at="head").debug(x, seed=torch.ones_like)
    assert [row.node for row in quiet.nodes] == ["head"] and quiet.first_bad is None


def test_several_inputs() -> None:
    class Pair(nn.Module):
        def forward(self, a: Tensor, b: Tensor, unused: Tensor) -> Tensor:
            return a * 2 + b

    a, b = random(2, 3), random(2, 3, seed=1)
    explain = fxlrp.compile(Pair().eval(), presets.epsilon(0.0))
    found = explain.debug(a, b=b, unused=a, target=1, keep=True)
    assert [row.node for row in found.nodes] == ["add", "mul", "a", "b"]
    for row, relevance in zip(found.nodes[2:], explain(a, b, a, target=1), strict=False):
        assert_relevance(row.relevance, relevance, 1e-12)
    assert found["a"].place.operation == "input" and found["a"].place.rule == ""


def test_tokens_and_nodes_with_several_results() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(9, 6)
            self.lstm = nn.LSTM(6, 4, batch_first=True)
            self.head = nn.Linear(4, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            first, second = self.lstm(self.embedding(tokens))[0].chunk(2, 1)
            return self.head(first.mean(1) + second.mean(1))

    torch.manual_seed(0)
    model, tokens = Tokens().double().eval(), torch.tensor([[1, 3, 3, 8], [0, 2, 5, 1]])
    explain = fxlrp.compile(model, presets.epsilon())
    found = explain.debug(tokens, target=2, keep=True)
    assert_relevance(found["tokens"].relevance, explain(tokens, target=2), 1e-12)
    (chunk,) = [row for row in found.nodes if row.place.operation == "chunk"]
    assert chunk.received.shapes == ((2, 2, 4), (2, 2, 4)) and len(chunk.relevance) == 2
    assert chunk.absorbed == pytest.approx(0, abs=1e-12)
    picked = [row for row in found.nodes if row.place.operation == "getitem"]
    assert len(picked) >= 2 and all(row.handed_on == row.received.sum for row in picked)
    assert chunk.received.sum == pytest.approx(sum(row.received.sum for row in picked[:2]))


def test_a_step_that_hands_nothing_on_absorbs_everything() -> None:
    model = One(lambda x: (x.relu() + 1.0) * 3).eval()
    found = fxlrp.compile(model, [("add", rules.Only(1))])
    rows = found.debug(random(2, 3), target=0)
    assert rows["add"].absorbed == rows["add"].received.sum == rows.explained != 0
    assert [row.node for row in rows.nodes] == ["mul", "add"] and rows.at_inputs == 0
    assert {leak.node for leak in found.balance(random(2, 3), target=0).leaks()} == {"add"}


def test_model_and_input_are_unchanged() -> None:
    model, x = small(), random(2, 2, 6, 6)
    explain = fxlrp.compile(model, debug=True)
    before, kept = copy.deepcopy(model.state_dict()), x.clone()
    explain.debug(x, keep=True)
    explain.check_stages(x)
    assert torch.equal(x, kept)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_table_of_relevances() -> None:
    found = fxlrp.compile(small(), presets.epsilon(0.3)).debug(random(2, 2, 6, 6), target=1)
    lines = str(found).splitlines()
    assert lines[0].split()[:4] == ["node", "operation", "rule", "shape"]
    (conv,) = [line for line in lines if line.startswith("conv ")]
    assert "Epsilon(epsilon=0.3)" in conv and "2x3x4x4" in conv
    assert f"{found['conv'].received.sum:.4g}" in conv and f"{found['conv'].bias:.4g}" in conv
    assert lines[-1] == "all relevance is finite"


# ----------------------------------------------------------------------------------------------------
# Where NaN or infinity first appears


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize(("layer", "code"), [("conv", "torch.relu(self.conv(x))"), ("head", "self.head(x.flatten(1))")])
def test_a_parameter_that_is_not_finite_is_found(layer: str, code: str, capture: Any) -> None:
    model, x = small(), random(2, 2, 6, 6)
    explain = fxlrp.compile(model, presets.epsilon(), capture=capture, example_inputs=x)
    assert explain.debug(x).first_bad is None
    with torch.no_grad():
        model.get_submodule(layer).weight[0, 0] = math.nan  # type: ignore[index]
    found = explain.debug(x, seed=torch.ones_like if layer == "head" else None)
    bad = found.first_bad
    assert bad is not None and (bad.node, bad.module) == (layer, layer)
    assert bad.source.endswith(code) and "test_debug.py:" in bad.source
    assert bad.reads[f"{layer}_weight"].nan == (1 if layer == "head" else 9)
    assert bad.value == NotFinite(nan=2 * 16 if layer == "conv" else 2)
    assert bad.what == ("its value" if layer == "conv" else "the relevance that it hands on")
    assert str(bad) in str(found)


def test_an_exploding_division_is_found_where_it_happens() -> None:
    class Cancels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.last = nn.Linear(3, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x) * 1.0)

    model, x = randomize(Cancels().double().eval()), random(2, 3)
    with torch.no_grad():
        model.last.weight[0] = 1e-300  # type: ignore[union-attr, operator]
    # Every number is finite, but not 1e300 / 1e-300.
    huge = torch.tensor([[1e300, 0.0]] * 2, dtype=torch.float64)
    found = fxlrp.compile(model, presets.epsilon(0.0)).debug(x, seed=huge)
    bad = found.first_bad
    assert bad is not None and bad.node == "last" and bad.what == "the relevance that it hands on"
    assert not bad.value and not bad.reads
    assert found["last"].received.not_finite == NotFinite() and found["mul"].received.not_finite
    assert bad.source.endswith("return self.last(self.first(x) * 1.0)")


def test_a_seed_and_an_input_that_are_not_finite_are_found() -> None:
    model, x = small(), random(2, 2, 6, 6)
    explain = fxlrp.compile(model)
    bad = explain.debug(x, seed=lambda out: out * math.inf).first_bad
    assert bad is not None and (bad.node, bad.what, bad.value) == ("head", "the seed", NotFinite())
    x[1, 0, 2, 2] = math.nan
    bad = explain.debug(x).first_bad
    assert bad is not None and (bad.node, bad.what, bad.found) == ("x", "its value", NotFinite(nan=1))


def test_relevance_that_overflows_where_it_adds_up_is_found() -> None:
    def twice(x: Tensor) -> Tensor:
        x = torch.relu(x)
        return torch.cat([x, x], 1)

    explain = fxlrp.compile(One(twice).eval())
    found = explain.debug(torch.ones(1, 3, dtype=torch.half), seed=lambda out: torch.full_like(out, 6e4))
    bad = found.first_bad
    assert bad is not None and (bad.node, bad.what, bad.found.inf) == ("relu", "the relevance that it receives", 3)


@pytest.mark.parametrize("layer", ["query", "values"])
def test_infinities_of_a_mask_are_no_error_and_do_not_hide_one(layer: str) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Linear(4, 4)
            self.values = nn.Linear(4, 4)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            query = self.query(x)
            values = self.values(x)
            attended = torch.softmax(query @ x.transpose(1, 2) + mask, -1) @ values
            return attended.mean(1)

    model, x = randomize(Masked().double().eval()), random(2, 3, 4)
    mask = torch.full((3, 3), -math.inf, dtype=torch.float64).triu(1)
    explain = fxlrp.compile(model, "cplrp")
    assert explain.debug(x, mask).first_bad is None
    with torch.no_grad():
        model.get_submodule(layer).bias[0] = math.nan  # type: ignore[index]
    bad = explain.debug(x, mask).first_bad
    assert bad is not None and bad.node == layer and bad.source.endswith(f"{layer} = self.{layer}(x)")


def test_counts_of_numbers_that_are_not_finite() -> None:
    numbers = torch.tensor([1.0, math.nan, math.inf, -math.inf])
    assert NotFinite.of(numbers) == NotFinite(1, 2) and str(NotFinite.of(numbers)) == "1 NaN, 2 Inf"
    assert NotFinite.of((numbers, [numbers.half()], 3, torch.tensor(1))) == NotFinite(2, 4)
    assert not NotFinite.of(torch.zeros(0)) and str(NotFinite()) == ""


def test_minimum_and_maximum_leave_nan_aside() -> None:
    found: Relevances = fxlrp.compile(One(torch.relu).eval()).debug(
        torch.ones(1, 3), seed=torch.tensor([[math.nan, -2.0, 5.0]])
    )
    received = found["x"].received
    assert (received.min, received.max) == (-2.0, 5.0) and math.isnan(received.sum)


# ----------------------------------------------------------------------------------------------------
# The stages of a compilation


def conv_bn() -> tuple[nn.Module, Tensor]:
    layers = (
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    return zoo.initialise(nn.Sequential(*layers).double()), random(2, 1, 6, 6)


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_every_pass_is_a_stage(capture: Any) -> None:
    model, x = conv_bn()
    stages = fxlrp.compile(model, capture=capture, example_inputs=x, debug=True).stages
    ran = (
        *(*pipeline.CANONICALIZE, *pipeline.SIMPLIFY, *pipeline.ANALYZE, *pipeline.ANNOTATE),
        *(*pipeline.SPECIALIZE, *pipeline.EMIT, *pipeline.OPTIMIZE),
    )
    assert [stage.name for stage in stages] == ["capture", *(each.name for each in ran)]
    assert stages["fold_batch_norm"].count == 1 and stages["annotate"].count == 4
    assert stages["capture"].count == len(stages[0].graph.nodes)
    emitted = [stage.name for stage in stages].index("emit_relevance")
    assert [stage.is_forward for stage in stages] == [index < emitted for index in range(len(stages))]


def test_stages_are_copies_and_the_last_is_the_program() -> None:
    model, _ = conv_bn()
    explain = fxlrp.compile(model, debug=True)
    stages = explain.stages
    assert stages[-1].code == explain.code
    assert all(stage.graph is not explain.graph_module.graph for stage in stages)
    assert len({id(stage.graph) for stage in stages}) == len(stages) == len(stages[:])
    assert "batch_norm" in stages["name_nodes"].code
    assert "batch_norm(" not in stages["fold_batch_norm"].code.replace("fold_batch_norm", "")
    with pytest.raises(KeyError, match="there is no stage 'fold'; there are: capture, functionalize"):
        stages["fold"]


def test_differences_between_stages() -> None:
    model, _ = conv_bn()
    stages = fxlrp.compile(model, debug=True).stages
    lines = stages.diff("fold_batch_norm").splitlines()
    assert lines[:2] == ["--- name_nodes", "+++ fold_batch_norm"]
    removed = [line for line in lines if line.startswith("-") and "batch_norm(" in line]
    added = [line for line in lines if line.startswith("+") and "folded_weight(" in line]
    assert len(removed) == len(added) == 1 and "conv2d" not in removed[0]
    assert stages.diff("infer_dependence") == ""
    assert stages.diff(-1) == stages.diff(len(stages) - 1)
    assert stages.diff(0).count("\n+") > 5
    table = str(stages)
    assert "fold_batch_norm" in table and len(table.splitlines()) == len(stages) + 2


def test_without_debug_nothing_is_kept() -> None:
    explain = fxlrp.compile(conv_bn()[0])
    with pytest.raises(InputError, match="debug=True"):
        _ = explain.stages
    with pytest.raises(InputError, match="debug=True"):
        explain.check_stages(random(2, 1, 6, 6))


def test_a_debugged_explainer_can_be_copied() -> None:
    model, x = conv_bn()
    explain = fxlrp.compile(model, debug=True)
    again = copy.deepcopy(explain)
    assert again.stages[-1].code == explain.code
    assert_relevance(again(x), explain(x), 0.0)


class Branches(nn.Module):
    """What symbolic tracing cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if x.shape[-1] == 3:
            x = x + 1
        return {"logits": self.head(x), "input": x}


@pytest.mark.parametrize("example", [None, random(2, 3)], ids=["lazy", "fallback"])
def test_stages_are_those_of_the_front_end_that_could_follow(example: Tensor | None) -> None:
    explain = fxlrp.compile(Branches().double().eval(), example_inputs=example, output="logits", debug=True)
    x = random(2, 3)
    if example is None:
        with pytest.raises(InputError, match="captured at the first call"):
            _ = explain.stages
        explain(x)
    assert explain.front_end == "export"
    assert [stage.name for stage in explain.stages].count("capture") == 1
    checks = explain.check_stages(x, target=1)
    assert not checks.wrong(1e-12)


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("name", ["residual", "one_dimensional", "batch_norm_after_shared_conv"])
def test_no_pass_changes_what_is_computed(name: str, capture: Any) -> None:
    model, (x,) = zoo.small_net(name)
    explain = fxlrp.compile(model, "epsilon_plus_flat", example_inputs=x, capture=capture, debug=True)
    checks = explain.check_stages(x, target=1)
    assert not checks.wrong(1e-9) and max(each.difference for each in checks.checks) < 1e-9
    assert {each.computes for each in checks.checks} == {"output", "relevance"}
    assert "no stage changes" in str(checks)


def test_stages_of_checkpoints_of_a_named_node_and_of_several_inputs() -> None:
    model, (x,) = zoo.small_net("residual")
    explain = fxlrp.compile(model, checkpoint=True, debug=True)
    assert explain.stages["checkpoint"].count > 0 and not explain.check_stages(x, target=1).wrong(1e-9)
    explain = fxlrp.compile(model, at="conv2", debug=True)
    assert not explain.check_stages(x, seed=torch.ones_like).wrong(1e-9)
    two, inputs = zoo.small_net("two_inputs")
    assert not fxlrp.compile(two, debug=True).check_stages(*inputs, target=0).wrong(1e-9)


def test_a_pass_that_changes_a_constant_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(program: Program) -> int:
        (add,) = [node for node in program.graph.nodes if node.target in (operator.add, torch.add)]
        add.args = (add.args[0], 1.5)
        return 1

    broken = Pass("changes_a_constant", change, frozenset(), frozenset())
    monkeypatch.setattr(pipeline, "SIMPLIFY", (*pipeline.SIMPLIFY, broken))
    x = random(2, 3)
    explain = fxlrp.compile(One(lambda x: torch.relu(x) + 1.0).eval(), debug=True)
    checks = explain.check_stages(x)
    (found,) = checks.wrong()
    assert found.name == "changes_a_constant" and found.computes == "output"
    assert found.changed == pytest.approx(0.5 / float((x.relu() + 1).max()))
    assert "changes_a_constant (stage 9) is the first" in str(checks)
    after = [each for each in checks.checks if each.computes == "output"][found.index :]
    assert all(each.difference == pytest.approx(found.changed) for each in after)
    assert "1.5" in explain.stages.diff("changes_a_constant")


def test_an_optimization_that_changes_the_relevance_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(program: Program) -> int:
        steps = [node for node in program.graph.nodes if "epsilon" in node.kwargs]
        for node in steps:
            node.kwargs = {**node.kwargs, "epsilon": 1.0}
        return len(steps)

    broken = Pass("changes_epsilon", change, frozenset(), frozenset())
    monkeypatch.setattr(pipeline, "OPTIMIZE", (broken, *pipeline.OPTIMIZE))
    model, x = conv_bn()
    checks = fxlrp.compile(model, optimize=fxlrp.Optimizations.none(), debug=True).check_stages(x, target=0)
    (found,) = checks.wrong()
    assert (found.name, found.computes) == ("changes_epsilon", "relevance") and found.count > 0


def test_a_stage_that_does_not_run_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(program: Program) -> int:
        (relu,) = [node for node in program.graph.nodes if node.target is torch.relu]
        relu.kwargs = {"nonsense": 1}
        return 1

    def repair(program: Program) -> int:
        (relu,) = [node for node in program.graph.nodes if node.target is torch.relu]
        relu.kwargs = {}
        return 1

    passes = [Pass(run.__name__, run, frozenset(), frozenset()) for run in (change, repair)]
    monkeypatch.setattr(pipeline, "SIMPLIFY", tuple(passes))
    checks = fxlrp.compile(One(torch.relu).eval(), debug=True).check_stages(random(2, 3))
    (found,) = checks.wrong()
    assert found.name == "change" and found.problem.startswith("TypeError") and "nonsense" in found.problem


def test_a_model_in_training_mode_is_not_run() -> None:
    model, x = conv_bn()
    explain = fxlrp.compile(model, debug=True)
    model.train()
    with pytest.raises(InputError, match="training mode"):
        explain.check_stages(x)


# ----------------------------------------------------------------------------------------------------
# Logs


@pytest.fixture
def quiet() -> Iterator[None]:
    yield
    fxlrp.set_logs()
    assert not logging.getLogger("fxlrp").handlers


def test_the_log_of_the_passes(caplog: pytest.LogCaptureFixture) -> None:
    model, _ = conv_bn()
    with caplog.at_level(logging.DEBUG, "fxlrp.passes"):
        stages = fxlrp.compile(model, debug=True).stages
    assert {record.name for record in caplog.records} == {"fxlrp.passes"}
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == len(stages)
    for message, stage in zip(messages, stages, strict=True):
        if stage.count == 0:
            assert message == f"{stage.name}: nothing changed"
        else:
            assert message.startswith(f"{stage.name}: {stage.count}")
            assert message.endswith(stage.code) or message.endswith("the graph is as before")
    (folded,) = [message for message in messages if message.startswith("fold_batch_norm")]
    assert "folded_weight(" in folded


def test_the_logs_of_the_annotated_graph_and_of_the_program(caplog: pytest.LogCaptureFixture) -> None:
    model, x = conv_bn()
    with caplog.at_level(logging.DEBUG, "fxlrp.annotate"):
        explain = fxlrp.compile(model, example_inputs=x)
    (record,) = caplog.records
    assert record.name == "fxlrp.annotate" and str(explain) in record.getMessage()
    caplog.clear()
    with caplog.at_level(logging.DEBUG, "fxlrp.emit"):
        explain = fxlrp.compile(model)
    (record,) = caplog.records
    assert record.name == "fxlrp.emit" and explain.code in record.getMessage()


def test_nothing_is_rendered_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> str:
        raise AssertionError("rendered")

    monkeypatch.setattr(logs, "graph_text", refuse)
    monkeypatch.setattr(logs, "program_text", refuse)
    monkeypatch.setattr(logs.table, "render", refuse)
    fxlrp.compile(conv_bn()[0])
    fxlrp.set_logs(passes=True)
    with pytest.raises(AssertionError, match="rendered"):
        fxlrp.compile(conv_bn()[0])
    fxlrp.set_logs()


def test_set_logs_prints_to_stderr_until_it_is_switched_off(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, quiet: None
) -> None:
    model, _ = conv_bn()
    for _ in range(2):
        fxlrp.set_logs(emit=True)
        explain = fxlrp.compile(model)
        printed = capsys.readouterr()
        # Once, and not by the handlers of the root logger as well.
        assert printed.err == f"fxlrp.emit: the generated program\n{explain.code}\n" and printed.out == ""
        assert not caplog.records
    fxlrp.set_logs()
    fxlrp.compile(model)
    assert capsys.readouterr().err == "" and logging.getLogger("fxlrp").propagate


SCRIPT = "import torch, fxlrp; fxlrp.compile(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()).eval())"


def python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_environment_switches_logs_on() -> None:
    done = python(SCRIPT, FXLRP_LOGS="passes, annotate")
    assert done.returncode == 0 and done.stdout == ""
    assert "fxlrp.passes: remove_identities: 1\n" in done.stderr and "fxlrp.passes: capture: " in done.stderr
    assert "fxlrp.annotate: the annotated graph\nnode " in done.stderr and "fxlrp.emit" not in done.stderr
    assert python(SCRIPT, FXLRP_LOGS="").stderr == python(SCRIPT).stderr == ""


def test_an_unknown_log_is_an_error_at_import() -> None:
    done = python("import fxlrp", FXLRP_LOGS="passes,graphs")
    assert done.returncode != 0
    assert "InputError: FXLRP_LOGS: there is no log 'graphs'; there are: passes, annotate, emit" in done.stderr
