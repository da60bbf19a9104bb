"""A net of operations whose steps are derived, through everything that reads or writes an explanation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from fxlrp import presets
from helpers import FRONT_ENDS
from oracles import assert_relevance, random

EPSILON = presets.epsilon(1e-9)
SOURCE, TARGET = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([1, 2, 0, 0, 2])


class Net(nn.Module):
    """Message passing over nodes, sampling, distances, and soft maxima."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.register_buffer("source", SOURCE)
        self.register_buffer("target", TARGET)
        self.register_buffer("grid", random(1, 2, 2, 2, seed=8) / 3)
        self.register_buffer("places", random(3, 6, seed=9))
        self.head = nn.Linear(4 + 3 + 1 + 4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        nodes = torch.relu(self.first(x))
        messages = nodes.index_select(1, self.source)  # type: ignore[arg-type]
        passed = torch.zeros_like(nodes).index_add(1, self.target, messages)  # type: ignore[arg-type]
        sampled = F.grid_sample(passed.unsqueeze(1), self.grid.expand(x.shape[0], 2, 2, 2), align_corners=False)  # type: ignore[operator]
        distances = torch.cdist(passed, self.places.expand(x.shape[0], 3, 6)).mean(1)  # type: ignore[operator]
        soft = torch.logsumexp(self.second(sampled.flatten(1)), 1, keepdim=True)
        products = (passed[..., :2] + 1.5).prod(-1)
        return self.head(torch.cat([sampled.flatten(1), distances, soft, products], 1))


def net() -> tuple[nn.Module, Tensor]:
    model = Net().double().eval()
    for seed, module in enumerate((model.first, model.second, model.head)):
        module.weight.data = random(*module.weight.shape, seed=seed + 20)
    return model, random(2, 4, 6, seed=1)


@pytest.fixture(scope="module")
def made() -> tuple[fxlrp.Explainer, Tensor, Tensor]:
    model, x = net()
    explain = fxlrp.compile(model, EPSILON, example_inputs=x, capture="symbolic")
    return explain, x, explain(x, target=1)


@pytest.mark.parametrize("options", [dict(optimize=False), dict(checkpoint=True), dict(capture="export")], ids=str)
def test_options(made: tuple[fxlrp.Explainer, Tensor, Tensor], options: dict[str, object]) -> None:
    _, x, wanted = made
    model, _ = net()
    assert bool(wanted.isfinite().all()) and bool((wanted != 0).any())
    explain = fxlrp.compile(model, EPSILON, example_inputs=x, **options)  # type: ignore[arg-type]
    assert_relevance(explain(x, target=1), wanted, 1e-9)


def test_printed(made: tuple[fxlrp.Explainer, Tensor, Tensor]) -> None:
    explain, _, _ = made
    for name in ("index_add", "grid_sample", "cdist", "logsumexp", "prod"):
        assert name in explain.table()
    assert "expect_sizes" in explain.code and "grid_sampler_2d_backward" in explain.code


def test_every_node_conserves_relevance(made: tuple[fxlrp.Explainer, Tensor, Tensor]) -> None:
    explain, x, wanted = made
    relevances = explain.debug(x, target=1)
    assert abs(relevances.at_inputs - float(wanted.sum())) < 1e-9
    leaks = {each.node for each in explain.balance(x, target=1).leaks()}
    # Sums of values and constants leave relevance to the constants.
    assert not {each for each in leaks if each.startswith(("index_add", "grid_sample", "logsumexp", "prod", "cat"))}


def test_saved_and_loaded(made: tuple[fxlrp.Explainer, Tensor, Tensor], tmp_path: Path) -> None:
    explain, x, wanted = made
    explain.save(tmp_path / "recipe.json")
    loaded = fxlrp.load(tmp_path / "recipe.json", net()[0])
    assert_relevance(loaded(x, target=1), wanted, 1e-9)


def test_another_batch(made: tuple[fxlrp.Explainer, Tensor, Tensor]) -> None:
    explain, x, wanted = made
    assert_relevance(explain(torch.cat([x, x[:1]]), target=1), torch.cat([wanted, wanted[:1]]), 1e-9)


@pytest.mark.slow
def test_exported(made: tuple[fxlrp.Explainer, Tensor, Tensor], tmp_path: Path) -> None:
    explain, x, wanted = made
    explain.export(tmp_path / "explain.pt2", x)
    more = torch.cat([x, x[:1]])
    found = torch.export.load(tmp_path / "explain.pt2").module()(more, torch.tensor([1, 1, 1]))
    assert_relevance(found, torch.cat([wanted, wanted[:1]]), 1e-9)


def test_in_a_backward(made: tuple[fxlrp.Explainer, Tensor, Tensor]) -> None:
    _, x, wanted = made
    leaf = x.clone().requires_grad_()
    output = fxlrp.autograd(net()[0], EPSILON, example_inputs=x)(leaf)
    output[:, 1].sum().backward()
    assert leaf.grad is not None and wanted.shape == leaf.grad.shape
    assert bool(leaf.grad.isfinite().all())


def test_front_ends_agree() -> None:
    model, x = net()
    first, second = (fxlrp.compile(model, EPSILON, example_inputs=x, capture=each)(x, target=0) for each in FRONT_ENDS)  # type: ignore[arg-type]
    assert_relevance(first, second, 1e-9)
