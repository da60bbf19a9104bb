"""Several targets, seeds or conditions in one call, with one forward pass."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fxlrp
import zoo
from fxlrp.errors import InputError
from fxlrp.relevance import stacked
from fxlrp.targets import each
from oracles import assert_relevance, random
from questions import language_model, skips

X = random(2, 2, 6, 6)
IDS = torch.tensor([[1, 4, 2, 7, 3], [5, 5, 0, 9, 10]])

NETS: dict[str, Callable[[], tuple[nn.Module, Tensor, list[Any]]]] = {
    "skips": lambda: (skips(), X, [0, 2, 1]),
    "language model": lambda: (language_model(), IDS, [(-1, 3), (-1, 5), (-1, 0)]),
    "resnet18": lambda: (*zoo.calibrated("resnet18"), [1, 7]),
    "vit_b_16": lambda: (*zoo.calibrated("vit_b_16"), [1, 7]),
    "mobilenet_v3_small": lambda: (*zoo.calibrated("mobilenet_v3_small"), [1, 7]),
}


PRESETS = ("default", "epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1", "attnlrp", "cplrp")
CASES = [
    *itertools.product(list(NETS)[:2], PRESETS),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in itertools.product(list(NETS)[2:], ("default", "attnlrp"))
    ),
]


@pytest.mark.parametrize(("name", "rules"), CASES)
def test_several_targets_are_those_one_at_a_time(name: str, rules: str) -> None:
    model, x, targets = NETS[name]()
    explain = fxlrp.compile(model, rules, example_inputs=x)
    with warnings.catch_warnings():
        # A step that vmap runs one question at a time would warn.
        warnings.simplefilter("error")
        found = explain(x, target=each(targets))
    assert found.shape == (len(targets), *x.shape)
    for target, relevance in zip(targets, found, strict=True):
        assert_relevance(relevance, explain(x, target=target), 1e-10)


LARGEST = X.nbytes * 3  # of the values of `skips` that relevance steps read


@pytest.mark.parametrize("checkpoint", [False, 3])
@pytest.mark.parametrize("together", [1, 2, 3])
@pytest.mark.parametrize("rules", ["epsilon", "epsilon_plus", "attnlrp"])
def test_large_values_are_explained_in_groups(
    rules: str, together: int, checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain = fxlrp.compile(skips(), rules, example_inputs=X, checkpoint=checkpoint)
    targets, conditions = [0, 1, 2, 1, 0], [{"stem": channel} for channel in (0, 1, 2, 3, 0)]
    singles = [explain(X, target=target, at=["stem", "x"]) for target in targets]
    under = [explain(X, target=target, only=only) for target, only in zip(targets, conditions, strict=True)]
    monkeypatch.setattr(stacked, "_LARGEST_BLOCK", LARGEST * together)
    with Calls() as calls:
        found = explain(X, target=each(targets), at=["stem", "x"])
    for place, relevance in found.items():
        assert_relevance(relevance, torch.stack([single[place] for single in singles]), 1e-12)
    assert_relevance(explain(X, target=each(targets), only=conditions), torch.stack(under), 1e-12)
    groups = math.ceil(5 / together)
    assert calls.transposed == 4 * groups
    if not checkpoint:
        # Denominators do not depend on the target.
        assert calls.count == (8 if rules == "epsilon_plus" else 4)


def test_sparse_inputs() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
            out: Tensor = self.layer(torch.sparse.mm(adjacency, x))
            return out

    x, adjacency = random(3, 4), (random(3, 3, seed=2) > 0).double().to_sparse()
    explain = fxlrp.compile(Graph().double().eval(), "epsilon", constants=["adjacency"])
    for targets in ([1], [2, 0]):
        found = explain(x, adjacency, target=each(targets))
        for target, relevance in zip(targets, found, strict=True):
            assert_relevance(relevance, explain(x, adjacency, target=target), 1e-12)


def test_each_question_has_memory_of_its_own() -> None:
    class Unread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            out: Tensor = self.layer(a)
            return out

    found = fxlrp.compile(Unread().double().eval(), "epsilon")(random(2, 4), random(2, 4), target=each([0, 1]))["b"]
    found[0] += 1
    assert not found[1].any()


def test_targets_of_every_kind() -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus")
    targets = [1, torch.tensor([0, 2]), [2, 1], None, fxlrp.targets.contrast(0, 1)]
    for target, relevance in zip(targets, explain(X, target=each(targets)), strict=True):
        assert_relevance(relevance, explain(X, target=target), 1e-10)
    assert_relevance(explain(X, target=each(torch.arange(3)))[2], explain(X, target=2), 1e-10)


def test_seeds() -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus")
    seeds = random(4, 2, 3, seed=3)
    found = explain(X, seed=each(seeds))
    for seed, relevance in zip(seeds, found, strict=True):
        assert_relevance(relevance, explain(X, seed=seed), 1e-10)
    by_function = explain(X, seed=each([torch.zeros_like, lambda out: out * 2]))
    assert not by_function[0].any()
    assert_relevance(by_function[1], explain(X, seed=lambda out: out * 2), 1e-10)


def test_a_condition_for_each_target() -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus")
    conditions: Any = [{"stem": 1}, {"stem": [0, 3]}, {"stem": torch.tensor([True, True, False, False])}]
    found = explain(X, target=each([0, 1, 2]), only=conditions)
    for target, only, relevance in zip(range(3), conditions, found, strict=True):
        assert_relevance(relevance, explain(X, target=target, only=only), 1e-10)
    shared = explain(X, target=each([0, 1, 2]), only={"stem": 1})
    for target, relevance in zip(range(3), shared, strict=True):
        assert_relevance(relevance, explain(X, target=target, only={"stem": 1}), 1e-10)
    with pytest.raises(InputError, match="2 and 3 targets or conditions"):
        explain(X, target=each([0, 1]), only=conditions)


def test_places_output_and_values_without_relevance() -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus")
    found, output = explain(X, target=each([0, 1]), at=["stem", "head", "x"], return_output=True)
    assert [value.shape for value in found.values()] == [(2, 2, 4, 6, 6), (2, 2, 3), (2, 2, 2, 6, 6)]
    assert output.shape == (2, 3)

    class Unused(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a * 2

    zeros = fxlrp.compile(Unused().eval())(X[0], X[1], target=each([(0, 1, 2)[1:], (1, 1)]))["b"]
    assert zeros.shape == (2, *X[1].shape) and not zeros.any()


class Calls(TorchDispatchMode):
    """Counts convolutions, and their transposed maps."""

    count = transposed = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.convolution.default
        self.transposed += func is torch.ops.aten.convolution_backward.default
        return func(*args, **(kwargs or {}))


def test_one_forward_pass() -> None:
    explain, model = fxlrp.compile(skips(), "epsilon"), skips()
    with Calls() as of_model:
        model(X)
    with Calls() as of_three:
        explain(X, target=each([0, 1, 2]))
    assert of_three.count == of_model.count == 4


@pytest.mark.parametrize("checkpoint", [False, 3])
@pytest.mark.parametrize("optimize", [True, False])
def test_with_and_without_optimizations(checkpoint: Any, optimize: bool) -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus", checkpoint=checkpoint, optimize=optimize)
    expected = [fxlrp.compile(skips(), "epsilon_plus")(X, target=target) for target in (0, 2)]
    assert_relevance(explain(X, target=each([0, 2])), torch.stack(expected), 1e-10)


def test_each_needs_a_target() -> None:
    with pytest.raises(InputError, match="at least one target"):
        each([])
    with pytest.raises(InputError, match="not both"):
        fxlrp.compile(skips())(X, target=each([1]), seed=torch.ones(2, 3))


def test_debug_takes_one_question() -> None:
    with pytest.raises(InputError, match="one target, seed and condition"):
        fxlrp.compile(skips()).debug(X, target=each([0, 1]))
