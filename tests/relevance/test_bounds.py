"""The bounds of ZBox: numbers, one for each channel, and tensors that broadcast to the input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import rules
from fxlrp.errors import RuleError
from oracles import assert_relevance, dense_map, negative, positive, random, share

CHANNELS = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64)


def convolution() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    return nn.Conv2d(3, 2, 2).double().eval(), random(2, 3, 4, 3)


def expected(layer: nn.Module, x: Tensor, seed: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The formula on the dense matrix, for one sample after the other, each with its own bounds."""
    m = dense_map(layer, x.shape[1:])
    found = []
    for sample, r, lowest, highest in zip(x, seed, low.expand_as(x), high.expand_as(x), strict=True):
        terms = (
            m.weight * sample.flatten() - positive(m.weight) * lowest.flatten() - negative(m.weight) * highest.flatten()
        )
        of_sample = share(terms[None], torch.zeros_like(m.bias), r.flatten()[None], 1e-6)
        found.append(of_sample.reshape(sample.shape))
    return torch.stack(found)


def explained(layer: nn.Module, x: Tensor, rule: rules.Rule, seed: Tensor, **options: Any) -> Tensor:
    return fxlrp.compile(layer, [(rules.FirstLayer(), rule)], **options)(x, seed=seed)


LOWS: dict[str, Callable[[], Any]] = {
    "1x3x1x1": lambda: CHANNELS.reshape(1, 3, 1, 1),
    "3x1x1": lambda: CHANNELS.reshape(3, 1, 1),
    "1x1x1x3": lambda: CHANNELS.reshape(1, 1, 1, 3),
    "1x3": lambda: CHANNELS.reshape(1, 3),
    "3x4x3": lambda: -random(3, 4, 3).abs() - 2,
    "4x3": lambda: -random(4, 3).abs() - 2,
    "2x1x1x1": lambda: torch.tensor([-2.0, -4.0]).reshape(2, 1, 1, 1),
    "2x3x4x3": lambda: -random(2, 3, 4, 3).abs() - 2,
    "array": lambda: np.array([-1.0, -2.0, -3.0], dtype=np.float32).reshape(1, 3, 1, 1),
    "integers": lambda: torch.tensor([-1, -2, -3]).reshape(1, 3, 1, 1),
}


@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "plain"])
@pytest.mark.parametrize("name", LOWS)
def test_a_tensor_broadcasts(name: str, optimize: bool) -> None:
    """Width and channels are both three here: (1, 1, 1, 3) is a bound for each column."""
    layer, x = convolution()
    seed = random(*layer(x).shape, seed=3)
    low = LOWS[name]()
    wanted = expected(layer, x, seed, torch.as_tensor(low).double(), torch.full((1,), 4.0))
    assert_relevance(explained(layer, x, rules.ZBox(low, 4.0), seed, optimize=optimize), wanted)


@pytest.mark.parametrize("low", [(-1.0, -2.0, -3.0), [-1, -2, -3], CHANNELS, np.array([-1, -2, -3])], ids=repr)
def test_one_dimension_has_a_number_for_each_channel(low: Any) -> None:
    layer, x = convolution()
    seed = random(*layer(x).shape, seed=3)
    wanted = expected(layer, x, seed, CHANNELS.reshape(1, 3, 1, 1), torch.full((1,), 4.0))
    assert_relevance(explained(layer, x, rules.ZBox(low, 4.0), seed), wanted)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 5), (3, 1, 1), (3, 2, 5)])
@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "plain"])
def test_a_dense_layer_of_tokens(shape: tuple[int, ...], optimize: bool) -> None:
    """(batch, tokens, features): a flat bound is for the features."""
    torch.manual_seed(1)
    layer, x = nn.Linear(5, 4).double().eval(), random(3, 2, 5)
    seed, low, high = random(3, 2, 4, seed=3), -random(*shape).abs() - 3, random(*shape, seed=1).abs() + 3
    wanted = expected(layer, x, seed, low, high)
    assert_relevance(explained(layer, x, rules.ZBox(low, high), seed, optimize=optimize), wanted)


def test_without_a_batch() -> None:
    layer, x = convolution()
    seed = random(*layer(x).shape, seed=3)
    rule = rules.ZBox(CHANNELS.reshape(1, 3, 1, 1), 4.0)
    for optimize in (True, False):
        whole = explained(layer, x, rule, seed, optimize=optimize)
        assert_relevance(explained(layer, x[0], rule, seed[0], optimize=optimize), whole[0])


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (2, 2), (3, 3, 4, 3), (5, 1, 3, 4, 3)])
def test_a_tensor_that_does_not_broadcast(shape: tuple[int, ...]) -> None:
    layer, x = convolution()
    for optimize in (True, False):
        with pytest.raises(RuleError, match=r"ZBox has bounds of shape .*broadcast.*\(2, 3, 4, 3\)"):
            explained(layer, x, rules.ZBox(torch.zeros(shape) - 1, 1.0), layer(x).detach(), optimize=optimize)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (float("nan"), 1.0, "low must be a finite number"),
        (0.0, float("inf"), "high must be a finite number"),
        ((0.0, float("nan")), 1.0, "low must be"),
        (torch.tensor([[0.0, float("nan")]]), 1.0, "low contains NaN, infinity"),
        ("0", 1.0, "low must be"),
        (None, 1.0, "low must be"),
        (True, 2.0, "low must be"),
        ((), 1.0, "low must be"),
        ([[0.0, 1.0]], 1.0, "low must be"),
        (torch.tensor([[True, False]]), 1.0, "bool"),
        (torch.tensor([[1j, 2j]]), 1.0, "complex"),
        (torch.zeros(0), 1.0, "0 of them"),
        ((0.0, 1.0), (1.0, 2.0, 3.0), "2 channels and high has 3"),
        (torch.zeros(1, 2), torch.ones(1, 3), "do not broadcast"),
        ((0.0, 0.0), torch.ones(1, 2), "the other is a tensor"),
        (torch.tensor([[0.0], [2.0]]), torch.ones(1, 3), "low=tensor of 2x1 exceeds"),
        (torch.tensor([0.0, 2.0]), 1.0, "exceeds"),
    ],
)
def test_what_is_no_bound(low: Any, high: Any, message: str) -> None:
    with pytest.raises(RuleError, match=f"ZBox.*{message}"):
        rules.ZBox(low, high)


def test_a_tensor_in_a_rule() -> None:
    """Rules are values: equal, hashable, immutable, and short in a table."""
    low = torch.zeros(1, 3, 1, 1)
    first, second = rules.ZBox(low, 1.0), rules.ZBox(low.numpy(), 1.0)  # type: ignore[arg-type]
    low.fill_(-7.0)
    assert first == second and hash(first) == hash(second) and first != rules.ZBox(low, 1.0)
    assert str(first) == "ZBox(low=tensor of 1x3x1x1, high=1)"
    assert repr(first) != repr(rules.ZBox(low, 1.0)) and len(repr(rules.ZBox(torch.zeros(3, 99, 99), 1.0))) < 150
    assert rules.ZBox(torch.zeros(1, 1, 1, 1), 1.0) == rules.ZBox(0.0, 1.0)


def test_in_a_recipe_a_copy_a_file_and_a_step_by_step_run(tmp_path: Path) -> None:
    import copy

    layer, x = convolution()
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(1), nn.Linear(12, 2).double()).eval()
    pixels = -random(3, 4, 3).abs() - 2
    explain = fxlrp.compile(model, [("0", rules.ZBox(pixels, 4.0))])
    relevance = explain(x, target=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explain.save(tmp_path / "recipe.json")
    torch.testing.assert_close(fxlrp.load(tmp_path / "recipe.json", model)(x, target=1), relevance)
    torch.testing.assert_close(copy.deepcopy(explain)(x, target=1), relevance)
    explain.export(tmp_path / "explain.pt2", x)
    exported = torch.export.load(tmp_path / "explain.pt2").module()
    torch.testing.assert_close(exported(x, torch.tensor([1, 1])), relevance)
    debugged = explain.debug(x, target=1, keep=True)
    torch.testing.assert_close(debugged["input_1"].relevance, relevance)
    assert model.state_dict().keys() == before.keys()
    other = fxlrp.compile(model, [("0", rules.ZBox(pixels - 1, 4.0))])
    assert explain.digest() != other.digest()


@pytest.mark.usefixtures("fresh_compiler")
def test_in_a_backward() -> None:
    layer, x = convolution()
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(1), nn.Linear(12, 2).double()).eval()
    pairs: Any = [("0", rules.ZBox(-random(3, 4, 3).abs() - 2, 4.0))]
    relevance = fxlrp.compile(model, pairs)(x, target=1)
    for explained in (fxlrp.autograd(model, pairs), torch.compile(model, backend=fxlrp.backend(pairs))):
        leaf = x.clone().requires_grad_()
        explained(leaf)[:, 1].sum().backward()
        torch.testing.assert_close(leaf.grad, relevance)


def test_on_another_device_and_in_another_type() -> None:
    layer, x = convolution()
    explain = fxlrp.compile(layer, [("conv2d", rules.ZBox(LOWS["1x3x1x1"](), 4.0))])
    relevance = explain(x, target=(0, 0, 0))
    single = explain.float()(x.float(), target=(0, 0, 0))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), relevance, rtol=1e-4, atol=1e-5)
