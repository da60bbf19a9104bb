"""The relevance of every node, and what each step absorbs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import zoo
from debugged_models import small
from fxlrp import presets, rules
from fxlrp.errors import InputError
from helpers import FRONT_ENDS
from oracles import DenseMap, One, assert_relevance, dense_map, epsilon_rule, random, randomize, stabilize


def shares(m: DenseMap, x: Tensor, r: Tensor, epsilon: float, bias: bool = True) -> dict[str, float]:
    """What becomes of the relevance of a dense map, from the definition of LRP-epsilon."""
    own = m.bias if bias else torch.zeros_like(m.bias)
    z = x @ m.weight.T + own
    per_unit = r / stabilize(z, epsilon)
    return {
        "received": float(r.sum()),
        "passed_on": float((per_unit * (x @ m.weight.T)).sum()),
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
        assert row.passed_on == pytest.approx(expected["passed_on"], rel=1e-9)
        assert row.absorbed == pytest.approx(expected["received"] - expected["passed_on"], rel=1e-9)
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


C, ROW, FEW = random(2, 4, 6, seed=1), random(2, 1, 6, seed=2), random(2, 4, seed=3)
ONE, TWO = torch.tensor([1]), torch.tensor([0, 1])
WITH_CONSTANTS: dict[str, Callable[[Tensor], Tensor]] = {
    "diagonal_scatter": lambda x: torch.diagonal_scatter(x, FEW, 0, 1, 2),
    "scatter": lambda x: x.scatter(1, torch.full((2, 1, 6), 2), ROW),
    "scatter of a number": lambda x: x.scatter(1, torch.full((2, 1, 6), 2), 0.75),
    "scatter_add": lambda x: x.scatter_add(1, torch.full((2, 1, 6), 2), ROW),
    "scatter_add to a constant": lambda x: C.scatter_add(1, torch.full((2, 1, 6), 2), x),
    "index_add": lambda x: x.index_add(1, ONE, ROW, alpha=2),
    "index_copy": lambda x: x.index_copy(1, ONE, ROW),
    "index_fill": lambda x: x.index_fill(1, ONE, 0.75),
    "index_put": lambda x: x.index_put((TWO, TWO), ROW[0, 0], accumulate=True),
    "put": lambda x: x.put(TWO, ROW[0, 0, :2]),
    "masked_scatter": lambda x: x.masked_scatter(C > 0, C),
    "diff": lambda x: x.diff(dim=1, prepend=ROW, append=x),
    "add, of two shapes": lambda x: x + FEW[..., None],
    "add, of complex numbers": lambda x: torch.view_as_real(torch.complex(x, x.flip(1)) + torch.complex(C, C.exp())),
}


@pytest.mark.parametrize("name", WITH_CONSTANTS)
def test_the_share_of_a_constant_operand(name: str) -> None:
    """For ``f(x) = L x + b``, ``b`` is ``f(0)``."""
    function, x, epsilon = WITH_CONSTANTS[name], random(2, 4, 6), 0.2
    explain = fxlrp.compile(One(function).eval(), presets.epsilon(epsilon), example_inputs=x, capture="symbolic")
    rows = [row for row in explain.debug(x, seed=torch.ones_like).nodes if row.bias]
    z, constant = function(x), function(torch.zeros_like(x))
    (row,) = rows
    assert row.bias == pytest.approx(float((constant / stabilize(z, epsilon)).sum()), rel=1e-9)
    assert row.received.sum == z.numel()
    assert row.stabilizer == pytest.approx(float((1 - z / stabilize(z, epsilon)).sum()), rel=1e-9)


def test_a_folded_batch_norm_is_part_of_the_bias() -> None:
    torch.manual_seed(0)
    model: Any = zoo.initialise(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten()).double())
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
    found: Any = explain.debug(x, target=1, keep=True)
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
    assert (row.location.operation, row.location.module, row.location.rule) == ("conv2d", "conv", "ZPlus()")
    assert row.location.source.endswith("x = torch.relu(self.conv(x))") and "debugged_models.py:" in row.location.source


def test_relevance_that_is_not_kept_is_an_error_and_so_is_an_unknown_node() -> None:
    found = fxlrp.compile(small()).debug(random(1, 2, 6, 6))
    with pytest.raises(InputError, match="keep=True"):
        _ = found["conv"].relevance
    with pytest.raises(KeyError, match="no relevance reaches a node named 'con'; similar names: conv"):
        found["con"]


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_it_ends_where_relevance_is_asked_for(capture: Any) -> None:
    model, x = small(), random(2, 2, 6, 6)
    explain = fxlrp.compile(model, at="conv", capture=capture, example_inputs=x)
    found: Any = explain.debug(x, target=1, keep=True)
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
    found: Any = explain.debug(a, b=b, unused=a, target=1, keep=True)
    assert [row.node for row in found.nodes] == ["add", "mul", "a", "b"]
    for row, relevance in zip(found.nodes[2:], explain(a, b, a, target=1).values(), strict=False):
        assert_relevance(row.relevance, relevance, 1e-12)
    assert found["a"].location.operation == "input" and found["a"].location.rule == ""


def test_old_names_warn() -> None:
    explain = fxlrp.compile(small(), presets.epsilon())
    x = random(2, 2, 6, 6)
    row = explain.debug(x).nodes[0]
    with pytest.warns(DeprecationWarning, match="the attribute place is now location") as caught:
        assert row.place is row.location
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="the attribute handed_on is now passed_on"):
        assert row.handed_on == row.passed_on
    balanced = explain.balance(x).nodes[0]
    with pytest.warns(DeprecationWarning, match="the attribute handed_on is now passed_on"):
        assert balanced.handed_on == balanced.passed_on


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
    found: Any = explain.debug(tokens, target=2, keep=True)
    assert_relevance(found["tokens"].relevance, explain(tokens, target=2), 1e-12)
    (chunk,) = [row for row in found.nodes if row.location.operation == "chunk"]
    assert chunk.received.shapes == ((2, 2, 4), (2, 2, 4)) and len(chunk.relevance) == 2
    assert chunk.absorbed == pytest.approx(0, abs=1e-12)
    picked = [row for row in found.nodes if row.location.operation == "getitem"]
    assert len(picked) >= 2 and all(row.passed_on == row.received.sum for row in picked)
    assert chunk.received.sum == pytest.approx(sum(row.received.sum for row in picked[:2]))


def test_a_step_that_passes_nothing_on_absorbs_everything() -> None:
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
    assert lines[-2:] == [
        "all relevance is finite",
        "rounding: not compared with double precision, because it is in double precision",
    ]
