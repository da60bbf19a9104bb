"""Only the positions that a target selects are computed, and the explanation is that of all positions."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import fxlrp
from fxlrp import Optimizations, rules
from fxlrp.errors import InputError
from fxlrp.operation import Operation
from helpers import as_tuple, assert_close
from operation_samples import call, mixed, settings, tensors_of
from operation_settings import SAMPLED
from oracles import random, randomize
from places import Place
from traced import Largest

WITHOUT = Optimizations(select_positions=False)
IDS = torch.tensor([[3, 1, 4, 1, 5], [2, 6, 5, 3, 5]])
CLASSES = 50


class Language(nn.Module):
    """A language model of one block: attention, a gated MLP, norms of both kinds and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(7, 8)
        self.before, self.between, self.after = nn.LayerNorm(8), nn.RMSNorm(8), nn.LayerNorm(8)
        self.mixed, self.gate = nn.Linear(8, 8), nn.Linear(8, 12)
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids)
        y = self.before(x)
        keep = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
        x = x + self.mixed((y @ y.transpose(1, 2)).masked_fill(~keep, -torch.inf).softmax(-1) @ y)
        y = self.between(x)
        x = x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))
        logits: Tensor = self.head(self.after(x))
        return logits


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return randomize(Language()).double().eval()


TARGETS: dict[str, dict[str, Any]] = {
    "default": {},
    "position": {"target": (2, 3)},
    "last position": {"target": (-1, 3)},
    "span": {"target": (slice(1, 4), 3)},
    "position of each sample": {"target": (torch.tensor([1, 3]), torch.tensor([4, 5]))},
    "pairs": {"target": torch.tensor([[1, 2], [3, 4]])},
    "all positions": {"target": (..., 3)},
    "all classes": {"target": (2, ...)},
    "seed": {"seed": random(2, 5, CLASSES, seed=1)},
    "seed function": {"seed": lambda out: out * random(2, 5, CLASSES, seed=1)},
}


@pytest.mark.parametrize("capture", ["symbolic", "export"])
@pytest.mark.parametrize("preset", ["attnlrp", "cplrp", "epsilon_plus_flat"])
def test_explanations_are_those_of_all_positions(model: nn.Module, preset: str, capture: Any) -> None:
    selected, whole = (
        fxlrp.compile(model, preset, example_inputs=IDS, capture=capture, optimize=optimize)
        for optimize in (True, WITHOUT)
    )
    assert "at_positions" in selected.code and "at_positions" not in whole.code
    for told in TARGETS.values():
        assert_close(selected(IDS, **told), whole(IDS, **told))
        relevance, output = selected(IDS, **told, return_output=True)
        assert_close(relevance, whole(IDS, **told))
        assert_close(output, model(IDS))
    longer = IDS.repeat(2, 2)
    assert_close(selected(longer, target=(7, 3)), whole(longer, target=(7, 3)))


@pytest.mark.parametrize("target", [(9, 3), (2, CLASSES), (2, 3, 4), "a", torch.tensor([7, 1]), (slice(9, None), 3)])
def test_targets_that_do_not_fit_are_refused_as_before(model: nn.Module, target: Any) -> None:
    messages = []
    for optimize in (True, WITHOUT):
        explain = fxlrp.compile(model, example_inputs=IDS, optimize=optimize)
        with pytest.raises(InputError) as caught:
            explain(IDS, target=target)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_no_relevance_of_all_positions_and_classes_exists(model: nn.Module) -> None:
    explain = fxlrp.compile(model, "attnlrp", example_inputs=IDS)
    ids = IDS.repeat(1, 8)
    for told, size in (({"target": (-1, 3)}, 2 * CLASSES), ({"target": (slice(3, 7), 3)}, 4 * 2 * CLASSES)):
        with Largest() as largest:
            explain(ids, **told)
        # The mask of attention, the weights of the head, and values of all positions with their features.
        assert largest.size <= max(size, 40 * 40, 8 * CLASSES, 2 * 40 * 12) < 2 * 40 * CLASSES


def test_an_output_that_is_returned_costs_what_the_model_costs(model: nn.Module) -> None:
    """Eight more positions behind the attention, and no relevance of them; with a seed, nothing."""
    explain = fxlrp.compile(model, "attnlrp", example_inputs=IDS)
    of_a_position = 2 * (8 * 8 + 2 * 8 * 12 + 12 * 8 + 8 * CLASSES)
    for told, more in (({"target": (2, 3)}, 8 * of_a_position), ({"seed": torch.ones(2, 5, CLASSES).double()}, 0)):
        counted = []
        for returned in (False, True):
            explain(IDS, return_output=returned, **told)
            with FlopCounterMode(display=False) as counter:
                explain(IDS, return_output=returned, **told)
            counted.append(counter.get_total_flops())
        assert counted[1] - counted[0] == more


class InSinglePrecision(nn.Module):
    """An RMSNorm that reads the type of its input, as in Llama."""

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = x.double()
        return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)).to(dtype)


def test_a_norm_that_reads_the_type_leaves_positions_apart(model: nn.Module) -> None:
    """The gated MLP behind it computes as few positions as behind a norm of PyTorch."""
    written = copy.deepcopy(model)
    written.between = InSinglePrecision().eval()
    counted = []
    for each in (model, written):
        explain = fxlrp.compile(each, "attnlrp", example_inputs=IDS, capture="symbolic")
        explain(IDS, target=(2, 3))
        with FlopCounterMode(display=False) as counter:
            explain(IDS, target=(2, 3))
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1]
    selected, whole = (fxlrp.compile(written, example_inputs=IDS, optimize=each) for each in (True, WITHOUT))
    for told in ({}, {"return_output": True}):
        assert_close(selected(IDS, target=(2, 3), **told), whole(IDS, target=(2, 3), **told))


def test_the_graph_that_users_see_is_that_of_the_model(model: nn.Module) -> None:
    selected, whole = (fxlrp.compile(model, example_inputs=IDS, optimize=each) for each in (True, WITHOUT))
    assert [node.name for node in selected.nodes] == [node.name for node in whole.nodes]
    assert str(selected.table()) == str(whole.table())
    relevances = selected.debug(IDS, target=(2, 3), keep=True)
    head = relevances["head"].relevance
    assert isinstance(head, Tensor) and head.shape == (2, 5, CLASSES)


def test_a_requested_value_has_all_positions(model: nn.Module) -> None:
    for at, features in (("after", 8), ("gate", 12)):
        explain = fxlrp.compile(model, "attnlrp", example_inputs=IDS, at=at)
        assert explain(IDS, target=(2, 3)).shape == (2, 5, features)


def test_positions_that_something_mixes_later_are_computed() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.linear(x)
            result: Tensor = self.head(x + x.mean(1, keepdim=True))
            return result

    torch.manual_seed(0)
    mixing, x = Mixed().double().eval(), random(2, 5, 4, seed=1)
    selected, whole = (fxlrp.compile(mixing, example_inputs=x, optimize=each) for each in (True, WITHOUT))
    assert_close(selected(x, target=(2, 1)), whole(x, target=(2, 1)))
    assert selected(x, target=(2, 1))[:, 3].abs().sum() > 0


def test_constants_that_differ_between_positions_are_read_at_all_of_them() -> None:
    """Such as embeddings of positions in front of the head."""

    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
            self.places = nn.Parameter(random(5, 4, seed=2))

        def forward(self, x: Tensor) -> Tensor:
            x = self.linear(x)
            logits: Tensor = self.head(x.cumsum(1) + self.places)
            return logits

    torch.manual_seed(0)
    model, x = Placed().double().eval(), random(2, 5, 4, seed=1)
    selected, whole = (fxlrp.compile(model, example_inputs=x, optimize=each) for each in (True, WITHOUT))
    assert_close(selected(x, target=(2, 1)), whole(x, target=(2, 1)))


def over_positions(x: Tensor, weight: Tensor, *, relevance: Tensor) -> Tensor:
    """A rule of its author that divides by a mean over the positions."""
    return x * (relevance @ weight) / x.abs().mean(1, keepdim=True)


@pytest.mark.parametrize("rule", [rules.Custom(over_positions), rules.RelativeEpsilon(0.1)], ids=str)
def test_positions_that_a_rule_mixes_are_computed(model: nn.Module, rule: rules.Rule) -> None:
    pairs = fxlrp.presets.attnlrp().override([("head", rule)])
    selected, whole = (fxlrp.compile(model, pairs, example_inputs=IDS, optimize=each) for each in (True, WITHOUT))
    for target in ((2, 3), (slice(1, 4), 3)):
        assert_close(selected(IDS, target=target), whole(IDS, target=target))


def test_positions_of_inputs() -> None:
    """A model whose positions never mix, of two inputs."""

    class Pointwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            result: Tensor = self.first(a) + self.second(b)
            return result

    torch.manual_seed(0)
    model, inputs = Pointwise().double().eval(), (random(2, 5, 4, seed=1), random(2, 5, 4, seed=2))
    selected, whole = (fxlrp.compile(model, example_inputs=inputs, optimize=each) for each in (True, WITHOUT))
    assert "at_positions" in selected.code
    for told in ({"target": (2, 1)}, {"seed": random(2, 5, 3, seed=3)}, {}):
        for one, other in zip(as_tuple(selected(*inputs, **told)), as_tuple(whole(*inputs, **told)), strict=True):
            assert_close(one, other)


def test_an_example_of_one_position_says_nothing_of_other_lengths() -> None:
    """Positions of one token look like a constant for all tokens, and their mean like each of them."""

    class Positioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position, self.head = nn.Parameter(random(5, 4, seed=2)), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(x.cumsum(1) + x.mean(1, keepdim=True) + self.position[: x.shape[1]])
            return result

    torch.manual_seed(0)
    model, x = Positioned().double().eval(), random(2, 5, 4, seed=1)
    selected, whole = (
        fxlrp.compile(model, example_inputs=x[:, :1], capture="symbolic", optimize=each) for each in (True, WITHOUT)
    )
    assert_close(selected(x, target=(2, 1)), whole(x, target=(2, 1)))


def test_values_that_are_computed_one_after_the_other() -> None:
    """Rows read the first of them before the second is computed."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.cumsum(1)
            gate = self.gate(x).sigmoid()
            result: Tensor = self.head(gate * x.flip(1).cumsum(1))
            return result

    torch.manual_seed(0)
    late, x = Late().double().eval(), random(2, 5, 4, seed=1)
    selected, whole = (fxlrp.compile(late, example_inputs=x, optimize=each) for each in (True, WITHOUT))
    assert "at_positions" in selected.code
    assert_close(selected(x, target=(2, 1)), whole(x, target=(2, 1)))


@pytest.mark.parametrize("operation", [pytest.param(each, id=each.name) for each in SAMPLED.values() if each.rowwise])
def test_rows_that_are_said_to_be_separate_are(operation: Operation) -> None:
    """A change of the first row of every operand changes only the first row of the result."""
    claims = 0
    for setting in settings(operation):
        given = setting.fill(lambda index, place: mixed(place, index))
        if not operation.tells(operation.rowwise, given):
            continue
        (plain,) = tensors_of(call(operation, given))
        if plain.dim() < 2:
            continue
        changed = setting.fill(functools.partial(with_another_first_row, plain))
        (other,) = tensors_of(call(operation, changed))
        claims += 1
        rows, other_rows = (each.flatten(0, -2)[1:] for each in (plain, other))
        torch.testing.assert_close(rows, other_rows, equal_nan=True, rtol=0, atol=0)
    assert claims, "no call has the fact that the row states"


def with_another_first_row(like: Tensor, index: int, place: Place) -> Tensor:
    """The values of a place with another first row, where there are as many rows as in the result."""
    x = mixed(place, index)
    if x.dim() != like.dim() or x.shape[:-1] != like.shape[:-1]:
        return x
    rows = x.clone().flatten(0, -2)
    rows[0] = rows[0] * 0.5 + 0.25
    return rows.reshape(x.shape)
