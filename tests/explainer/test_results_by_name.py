"""The relevance of several inputs comes by name, and inputs that are declared constants have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch.utils import _pytree as pytree

import fxlrp
from fxlrp import presets
from fxlrp.errors import InputError
from helpers import FRONT_ENDS
from oracles import random

TINY = presets.epsilon(1e-14)
X, MASK = random(2, 4), random(2, 4, seed=1)
TOKENS, HEAD = torch.tensor([[0, 1, 2], [2, 2, 1]]), random(3, 4, seed=2)


class Sums(nn.Module):
    """Linear in each of its inputs but the last, which is rounded in one of two ways, or not."""

    def __init__(self, way: str = "") -> None:
        super().__init__()
        self.way, self.embedding = way, nn.Embedding.from_pretrained(random(5, 4, seed=3))
        self.head = nn.Parameter(HEAD.clone())

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        mask = {"": mask, "bool": torch.where(mask.bool(), 1.0, 0.0), "compared": (mask > 0).double()}[self.way]
        return (x + self.embedding(tokens).sum(1)) * mask @ self.head.T


def by_hand(target: int) -> dict[str, Tensor]:
    """Of tokens and numbers, the mask being a constant."""
    table = random(5, 4, seed=3)
    rows = MASK * HEAD[target]
    return {"x": X * rows, "tokens": (table[TOKENS] * rows[:, None]).sum(-1)}


def assert_same(found: Any, expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, relevance in expected.items():
        torch.testing.assert_close(found[name], relevance, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("way", ["", "bool", "compared"])
def test_the_keys_do_not_depend_on_casts(way: str, capture: Any) -> None:
    explain = fxlrp.compile(Sums(way).eval(), TINY, example_inputs=(X, TOKENS, MASK), capture=capture)
    found = explain(X, TOKENS, MASK, target=1)
    assert list(found) == ["x", "tokens", "mask"]
    assert [tuple(r.shape) for r in found.values()] == [(2, 4), (2, 3), (2, 4)]
    assert all(relevance.dtype == torch.float64 for relevance in found.values())
    assert bool(found["mask"].any()) == (way == "")


def test_the_keys_do_not_depend_on_values() -> None:
    explain = fxlrp.compile(Sums().eval(), TINY)
    for mask in (MASK, torch.zeros_like(MASK), torch.ones_like(MASK)):
        assert list(explain(X, TOKENS, mask, target=0)) == ["x", "tokens", "mask"]


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_a_constant_has_no_relevance(capture: Any) -> None:
    explain = fxlrp.compile(Sums().eval(), TINY, example_inputs=(X, TOKENS, MASK), capture=capture, constants=["mask"])
    assert_same(explain(X, TOKENS, MASK, target=1), by_hand(1))
    (line,) = (line for line in str(explain).splitlines() if line.startswith("mask"))
    assert "declared a constant" in line and line.rstrip().endswith("no")


def test_one_explained_input_is_a_tensor() -> None:
    explain = fxlrp.compile(Sums().eval(), TINY, constants=["mask", "tokens"])
    torch.testing.assert_close(explain(X, TOKENS, MASK, target=1), by_hand(1)["x"], rtol=1e-9, atol=1e-11)


def test_constants_may_have_any_type_and_need_no_rule() -> None:
    class Boxes(nn.Module):
        def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
            return x * torch.linalg.matrix_exp(torch.round(boxes.abs())).diagonal(0, 1, 2)

    x, model = random(2, 3), Boxes().eval()
    explain = fxlrp.compile(model, TINY, constants=["boxes"])
    for boxes in (random(2, 3, 3, seed=4), random(2, 3, 3, seed=4).to(torch.complex128)):
        relevance = explain(x, boxes, seed=lambda output: output)
        torch.testing.assert_close(relevance, model(x, boxes), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("constants", [["mask", "masks"], ["masks"]])
def test_an_unknown_name_lists_the_inputs(constants: list[str]) -> None:
    with pytest.raises(InputError, match=r"'masks', which is not an input; the inputs are: x, tokens, mask"):
        fxlrp.compile(Sums().eval(), constants=constants)


@pytest.mark.parametrize(
    ("constants", "named"),
    [("mask", "list of names"), ([1], "not 1"), (3, "list of names"), (["x", "tokens", "mask"], "no input is left")],
)
def test_what_constants_may_be(constants: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        fxlrp.compile(Sums().eval(), constants=constants)


def test_a_model_that_is_captured_at_the_first_call() -> None:
    class Sizes(Sums):
        def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
            return super().forward(x, tokens, mask) if x.shape[1] > 2 else x

    with pytest.raises(InputError, match=r"the inputs are: x, tokens, mask"):
        fxlrp.compile(Sizes().eval(), constants=["masks"])
    assert_same(fxlrp.compile(Sizes().eval(), TINY, constants=["mask"])(X, TOKENS, MASK, target=1), by_hand(1))


def test_a_recipe_keeps_constants(tmp_path: Path) -> None:
    fxlrp.compile(Sums().eval(), TINY, constants=["mask"]).save(tmp_path / "recipe.json")
    again = fxlrp.load(tmp_path / "recipe.json", Sums().eval())
    assert_same(again(X, TOKENS, MASK, target=1), by_hand(1))


def test_an_exported_file_returns_the_results_of_its_metadata_in_order(tmp_path: Path) -> None:
    path, targets = tmp_path / "explain.pt2", torch.tensor([1, 1])
    explain = fxlrp.compile(Sums().eval(), TINY, constants=["mask"])
    explain.export(path, (X, TOKENS, MASK))
    metadata = fxlrp.deploy.metadata(path)
    assert [each["name"] for each in metadata["inputs"]] == ["x", "tokens", "mask", "target"]
    assert metadata["outputs"] == ["relevance_x", "relevance_tokens"]
    found = torch.export.load(path).module()(X, TOKENS, MASK, targets)
    assert_same(dict(zip(("x", "tokens"), found, strict=True)), by_hand(1))


def test_debugging_ends_at_what_is_explained() -> None:
    explain = fxlrp.compile(Sums().eval(), TINY, constants=["mask"])
    found = explain.debug(X, TOKENS, MASK, target=1, keep=True)
    inputs = [row for row in found.nodes if row.location.operation == "input"]
    assert_same({row.node: row.relevance for row in inputs}, {name: by_hand(1)[name] for name in ("x", "tokens")})


def test_in_a_backward_a_constant_has_no_gradient() -> None:
    x, mask = X.clone().requires_grad_(), MASK.clone().requires_grad_()
    fxlrp.autograd(Sums().eval(), TINY, constants=["mask"])(x, TOKENS, mask)[:, 1].sum().backward()
    assert mask.grad is None and x.grad is not None
    torch.testing.assert_close(x.grad, by_hand(1)["x"], rtol=1e-9, atol=1e-11)


def test_in_a_compiled_function_a_constant_has_no_gradient() -> None:
    x, mask = X.clone().requires_grad_(), MASK.clone().requires_grad_()
    model = Sums().eval()
    torch.compile(model, backend=fxlrp.backend(TINY, constants=["mask"]))(x, TOKENS, mask)[:, 1].sum().backward()
    assert mask.grad is None and x.grad is not None
    torch.testing.assert_close(x.grad, by_hand(1)["x"], rtol=1e-9, atol=1e-11)
    torch.compiler.reset()
    with pytest.raises(BackendCompilerFailed, match=r"'masks', which is not an argument; they are: mask, tokens, x"):
        torch.compile(model, backend=fxlrp.backend(TINY, constants=["masks"]))(x, TOKENS, mask)


def test_the_dict_is_a_pytree_for_torch_compile() -> None:
    explain = fxlrp.compile(Sums().eval(), TINY)
    compiled = torch.compile(explain, fullgraph=True, backend="eager")
    found, expected = compiled(X, TOKENS, MASK, target=1), explain(X, TOKENS, MASK, target=1)
    assert pytree.tree_structure(found) == pytree.tree_structure(expected)
    for one, other in zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True):
        torch.testing.assert_close(one, other)


def test_at_a_module_gives_a_tensor() -> None:
    explain = fxlrp.compile(Sums().eval(), TINY, constants=["mask"], at="embedding")
    assert explain(X, TOKENS, MASK, target=1).shape == (2, 3, 4)
