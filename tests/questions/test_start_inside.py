"""Relevance that starts at a value inside the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import InputError
from helpers import LRP0
from oracles import assert_relevance, random
from questions import language_model, skips

X = random(2, 2, 6, 6)


class Classifier(nn.Module):
    """Returns probabilities and features by name."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.softmax = skips(), nn.Softmax(1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        logits = self.net(x)
        return {"probabilities": self.softmax(logits), "sizes": (logits * 2, None)}


@pytest.mark.parametrize("capture", ["symbolic", "export"])
@pytest.mark.parametrize("name", ["net", "net.head", "net_head"])
def test_the_logits_before_a_softmax(name: str, capture: Any) -> None:
    model = Classifier().eval()
    explain = fxlrp.compile(model, "epsilon_plus", output=name, capture=capture, example_inputs=X)
    expected = fxlrp.compile(model.net, "epsilon_plus")
    assert_relevance(explain(X, target=1), expected(X, target=1), 1e-12)
    _, value = explain(X, target=1, return_output=True)
    torch.testing.assert_close(value, model.net(X))


def test_a_key_of_the_output_comes_first() -> None:
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"head": self.head(x) * 3}

    model, x = Same().double().eval(), random(2, 3)
    _, value = fxlrp.compile(model, LRP0, output="head")(x, target=0, return_output=True)
    torch.testing.assert_close(value, model(x)["head"])


@pytest.mark.parametrize("name", ["stem", "block.0", "last"])
def test_a_layer_inside_against_the_gradient(name: str) -> None:
    """LRP-0 of ``sum(seed)`` is gradient x input of ``value * seed / value``."""
    model = skips()
    kept: list[Tensor] = []
    model.get_submodule(name).register_forward_hook(lambda module, args, out: kept.append(out))
    x = X.clone().requires_grad_()
    model(x)
    explain = fxlrp.compile(skips(), LRP0, output=name)
    (gradient,) = torch.autograd.grad(kept[0][:, 1, 2, 3].sum(), x)
    assert_relevance(explain(X, target=(1, 2, 3)), (gradient * X), 1e-12)


def test_several_seeds_at_a_layer() -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus", output="block.0")
    value = explain(X, target=(0, 0, 0), return_output=True)[1]
    seeds = torch.stack([value * 0.5, value.flip(1) * 0 + 1])
    found = explain(X, seed=fxlrp.targets.each(seeds))
    for seed, relevance in zip(seeds, found, strict=True):
        assert_relevance(relevance, explain(X, seed=seed), 1e-10)


def test_nothing_behind_it_is_computed() -> None:
    ids = torch.tensor([[1, 4, 2, 7, 3]])
    explain = fxlrp.compile(language_model(), "attnlrp", output="blocks.0", example_inputs=ids)
    assert not [node for node in explain.nodes if node.name.startswith(("blocks_1", "head", "norm"))]
    assert explain(ids, target=(-1, 3)).shape == ids.shape


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "returns a dict without 'nowhere'.*no node and no module has this name"),
        ("net.block.1", None),
        ("x", "is not computed by the model"),
    ],
)
def test_names_that_do_not_exist(name: str, message: str | None) -> None:
    if message is None:
        fxlrp.compile(Classifier().eval(), output=name)
        return
    with pytest.raises(InputError, match=message):
        fxlrp.compile(Classifier().eval(), output=name)


def test_a_recipe_and_a_file_keep_the_start(tmp_path: Any) -> None:
    model = Classifier().eval()
    explain = fxlrp.compile(model, output="net.head")
    explain.save(tmp_path / "explain.json")
    expected = explain(X, target=1)
    assert torch.equal(fxlrp.load(tmp_path / "explain.json", model)(X, target=1), expected)
    explain.export(tmp_path / "explain.pt2", X)
    exported = torch.export.load(tmp_path / "explain.pt2").module()
    assert_relevance(exported(X, torch.tensor([1, 1])), expected, 1e-10)


def test_stages_are_compared_with_the_output_of_the_model() -> None:
    explain = fxlrp.compile(skips(), output="last", debug=True)
    with pytest.raises(InputError, match="compared with the output of the model"):
        explain.check_stages(X)


def test_the_start_is_part_of_the_table() -> None:
    assert "the question: relevance at the inputs, starting at block.0" in str(fxlrp.compile(skips(), output="block.0"))
