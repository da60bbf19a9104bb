"""What a target may be, against gradient x input of the outputs that it names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import InputError
from helpers import lrp0
from oracles import assert_relevance, random, randomize
from zoo import gradient_times_input


class PerPixel(nn.Module):
    """An output (batch, 4 classes, height, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.Conv2d(3, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


class Language(nn.Module):
    """An output (batch, length, 9 tokens), where a position depends on those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.embedding(ids).cumsum(1)))

    def relevance_of(self, ids: Tensor, select: Callable[[Tensor], Tensor]) -> Tensor:
        """Gradient x value of the embeddings, summed over the features of each token."""
        vectors = self.embedding(ids).detach().requires_grad_()
        select(self.head(torch.relu(vectors.cumsum(1)))).backward()
        return (vectors.grad * vectors.detach()).sum(-1)


def dense() -> tuple[nn.Module, Tensor]:
    layers = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 5, bias=False))
    return randomize(layers.double()).eval(), random(3, 4)


def per_pixel() -> tuple[nn.Module, Tensor]:
    return randomize(PerPixel().double()).eval(), random(2, 2, 5, 6)


def language() -> tuple[Language, Tensor]:
    model = randomize(Language().double()).eval()
    assert isinstance(model, Language)
    return model, torch.tensor([[3, 1, 4, 1, 5], [0, 2, 6, 5, 3]])


OF_ALL = (4, -1, np.int64(4), np.uint8(4), [4], [4, -1, 4], [[4], [4], [4]], np.array(4), np.array([4, 4, 4]), (4,))
OF_ALL_TENSORS = tuple(torch.tensor(4, dtype=dtype) for dtype in (torch.int64, torch.int32, torch.uint8, torch.int16))


@pytest.mark.parametrize("target", [*OF_ALL, *OF_ALL_TENSORS, torch.tensor([4]), torch.full((3, 1), 4)], ids=repr)
def test_the_same_class_of_every_sample(target: Any) -> None:
    model, x = dense()
    (expected,) = gradient_times_input(model, x, select=lambda y: y[:, 4].sum())
    assert_relevance(lrp0(model)(x, target=target), expected, 1e-12)


@pytest.mark.parametrize(
    "target",
    [
        [1, 4, 0],
        [1, -1, -5],
        [np.int32(1), 4, torch.tensor(0)],
        np.array([1, 4, 0], dtype=np.uint8),
        torch.tensor([1, 4, 0], dtype=torch.int32),
        torch.tensor([1, -1, -5]),
        torch.tensor([[1], [4], [0]]),
        (torch.tensor([1, 4, 0]),),
    ],
    ids=repr,
)
def test_a_class_for_each_sample(target: Any) -> None:
    model, x = dense()
    (expected,) = gradient_times_input(model, x, select=lambda y: y[0, 1] + y[1, 4] + y[2, 0])
    assert_relevance(lrp0(model)(x, target=target), expected, 1e-12)


@pytest.mark.parametrize(
    ("target", "region"),
    [
        ((3, ..., ...), np.s_[:, 3]),
        ((3, ...), np.s_[:, 3]),
        ((..., -1), np.s_[:, :, :, -1]),
        (..., np.s_[:]),
        ((..., ..., ...), np.s_[:]),
        ((slice(1, 3), 2, slice(None)), np.s_[:, 1:3, 2]),
        (np.s_[3, 2:5, 1::2], np.s_[:, 3, 2:5, 1::2]),
        (np.s_[-1, -2:, :-1], np.s_[:, -1, -2:, :-1]),
        ((np.int64(1), slice(np.int64(1), 99), 0), np.s_[:, 1, 1:, 0]),
        ((1, -1, 2), np.s_[:, 1, -1, 2]),
    ],
    ids=repr,
)
def test_a_region(target: Any, region: Any) -> None:
    model, x = per_pixel()
    (expected,) = gradient_times_input(model, x, select=lambda y: y[region].sum())
    assert_relevance(lrp0(model)(x, target=target), expected, 1e-12)


def test_a_region_with_a_class_for_each_sample() -> None:
    model, x = per_pixel()
    (expected,) = gradient_times_input(model, x, select=lambda y: y[0, 3, 1:3].sum() + y[1, 0, 1:3].sum())
    assert_relevance(lrp0(model)(x, target=(torch.tensor([3, 0]), slice(1, 3), ...)), expected, 1e-12)


def test_a_region_is_a_new_tensor() -> None:
    class Identity(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    x = random(2, 3)
    relevance = fxlrp.compile(Identity().eval())(x, target=...)
    assert torch.equal(relevance, x) and relevance.data_ptr() != x.data_ptr()


PAIRS = (
    (torch.tensor([3, -4]), torch.tensor([7, 2])),
    ([3, 1], [7, -7]),
    (np.array([3, 1]), torch.tensor([7, 2], dtype=torch.int32)),
    torch.tensor([[3, 7], [1, 2]]),
    np.array([[3, 7], [1, 2]]),
    [(3, 7), (1, 2)],
)


@pytest.mark.parametrize("capture", ["symbolic", "export"])
@pytest.mark.parametrize("target", PAIRS, ids=repr)
def test_a_position_and_a_token_for_each_sample(target: Any, capture: Any) -> None:
    model, tokens = language()
    expected = model.relevance_of(tokens, lambda y: y[0, 3, 7] + y[1, 1, 2])
    assert_relevance(lrp0(model, example_inputs=tokens, capture=capture)(tokens, target=target), expected, 1e-12)


@pytest.mark.parametrize("capture", ["symbolic", "export"])
def test_a_language_model_explains_the_last_position(capture: Any) -> None:
    model, tokens = language()
    explain = lrp0(model, example_inputs=tokens, capture=capture)
    logits = model(tokens)
    # The largest of all logits of a sample is somewhere else, so that the two cannot be confused.
    assert not torch.equal(logits.flatten(1).amax(1), logits[:, -1].amax(1))
    expected = model.relevance_of(tokens, lambda y: y[:, -1].amax(1).sum())
    assert_relevance(explain(tokens), expected, 1e-12)
    assert explain.debug(tokens).explained == pytest.approx(float(logits[:, -1].amax(1).sum()))
    longer = torch.cat((tokens, tokens), 1)
    assert_relevance(explain(longer), model.relevance_of(longer, lambda y: y[:, -1].amax(1).sum()), 1e-12)


def test_a_language_model_in_a_file(tmp_path: Path) -> None:
    model, tokens = language()
    lrp0(model, example_inputs=tokens).export(tmp_path / "explain.pt2", tokens, target="largest")
    expected = model.relevance_of(tokens, lambda y: y[:, -1].amax(1).sum())
    assert_relevance(torch.export.load(tmp_path / "explain.pt2").module()(tokens), expected, 1e-12)


def test_vectors_for_each_token_without_tokens_explain_the_largest() -> None:
    """The model cannot be told from one for images: no input selects rows of an embedding."""
    model = randomize(nn.Linear(4, 3, bias=False).double()).eval()
    x = random(2, 5, 4)
    (expected,) = gradient_times_input(model, x, select=lambda y: y.flatten(1).amax(1).sum())
    assert_relevance(lrp0(model)(x), expected, 1e-12)


class Pooled(Language):
    """Tokens, but an output (batch, 3, 3) that is not about them."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids).sum(1).unflatten(1, (3, 3))


def test_an_output_that_is_not_about_the_tokens_explains_the_largest() -> None:
    model, (_, tokens) = randomize(Pooled().double()).eval(), language()
    explain = lrp0(model)
    for each in (explain(tokens), explain(tokens[:1])[0]):
        assert (
            each.sum() == pytest.approx(float(model(tokens).flatten(1).amax(1)[: len(each)].sum())) or each.dim() == 1
        )


@pytest.mark.parametrize("target", [0, [0, 0, 0], torch.tensor([0, 0, 0]), (0,)], ids=repr)
def test_one_number_for_each_sample_needs_no_target(target: Any) -> None:
    model = randomize(nn.Sequential(nn.Linear(4, 1, bias=False), nn.Flatten(0)).double()).eval()
    x = random(3, 4)
    (expected,) = gradient_times_input(model, x, select=lambda y: y.sum())
    assert_relevance(lrp0(model)(x), expected, 1e-12)
    with pytest.raises(InputError, match="takes no target"):
        lrp0(model)(x, target=target)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ((4, 0, 0), r"\(4, 0, 0\)|4 is out of range"),
        ((0, -6, 0), "-6 is out of range for dimension 2"),
        ((0, 0), r"\(0, 0\) has 2 indices, but an output of shape \(2, 4, 5, 6\) needs 3"),
        ((0, 0, 0, 0), "has 4 indices"),
        ((0, ..., ..., ...), "has 4 indices"),
        ((0, ..., ..., 0.5), "has 4 indices"),
        ((0, 0.5, ...), r"must be an integer.*not 0\.5"),
        ((0, None, 0), "not None"),
        ((True, 0, 0), "not True"),
        (3, "3 has 1 index"),
        ([3, 1], r"\[3, 1\] has 1 index"),
        (torch.zeros(2, 2, dtype=torch.long), "has 1 index"),
        ((torch.tensor([0, 4]), 0, 0), "out of range"),
        ((torch.tensor([0, 1, 2]), 0, 0), "one index for each sample"),
        ((np.array([0.0, 1.0]), 0, 0), "integers, not torch.float64"),
        ((slice(4, 9), 0, 0), "selects nothing"),
        ((slice(None, None, -1), 0, 0), "positive step"),
        ((slice(0.5), 0, 0), "integers"),
        ({"class": 3}, "must be an integer"),
        ([[1], [2, 3]], "must be an integer"),
        (["cat", "dog"], "must be an integer"),
        ([True, False], "torch.bool"),
        ([], "float32"),
    ],
    ids=repr,
)
def test_what_cannot_be_a_target(target: Any, message: str) -> None:
    model, x = per_pixel()
    with pytest.raises(InputError, match=message) as caught:
        fxlrp.compile(model)(x, target=target)
    assert "target" in str(caught.value)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    "target",
    [-1, [1, -1, 0], torch.tensor([1, -1, 0], dtype=torch.int32), np.array([1, 4, 0]), np.int64(4), slice(1, 3)],
    ids=repr,
)
def test_in_one_compiled_graph(target: Any) -> None:
    model, x = dense()
    explain = lrp0(model)
    compiled = torch.compile(explain, fullgraph=True, backend="aot_eager", dynamic=True)
    assert_relevance(compiled(x, target=target), explain(x, target=target), 1e-12)


@pytest.mark.usefixtures("fresh_compiler")
def test_positions_in_one_compiled_graph() -> None:
    model, tokens = language()
    compiled = torch.compile(lrp0(model), fullgraph=True, backend="aot_eager", dynamic=True)
    expected = model.relevance_of(tokens, lambda y: y[0, 3, 7] + y[1, 1, 2])
    assert_relevance(compiled(tokens, target=(torch.tensor([3, -4]), torch.tensor([7, 2]))), expected, 1e-12)
    expected = model.relevance_of(tokens, lambda y: y[:, -1].amax(1).sum())
    assert_relevance(compiled(tokens), expected, 1e-12)
    with pytest.raises(RuntimeError, match="out of bounds"):
        compiled(tokens, target=(torch.tensor([3, 5]), torch.tensor([7, 2])))


def test_a_built_in_target_of_a_file(tmp_path: Path) -> None:
    model, x = per_pixel()
    for number, (target, region) in enumerate(
        [((-1, 2, 3), np.s_[:, -1, 2, 3]), ((1, ..., slice(2, 4)), np.s_[:, 1, :, 2:4])]
    ):
        path = tmp_path / f"{number}.pt2"
        lrp0(model).export(path, x, target=target)  # type: ignore[arg-type]
        (expected,) = gradient_times_input(model, x, select=lambda y, region=region: y[region].sum())  # type: ignore[misc]
        assert_relevance(torch.export.load(path).module()(x), expected, 1e-12)


def test_a_seed_function_cannot_change_the_output() -> None:
    model, x = dense()

    def in_place(output: Tensor) -> Tensor:
        output[:, :3] = 0
        return output.mul_(1.0)

    (expected,) = gradient_times_input(model, x, select=lambda y: y[:, 3:].sum())
    for rules in ("epsilon", fxlrp.presets.epsilon(0.0)):
        relevance = fxlrp.compile(model, rules)(x, seed=in_place)
        assert_relevance(relevance, expected, 1e-12 if rules != "epsilon" else 1e-4)


@pytest.mark.parametrize("as_function", [False, True])
def test_seeds_that_are_no_relevance(as_function: bool) -> None:
    model, x = dense()
    for seed, message in (
        (torch.ones(3, 5, dtype=torch.complex64), "complex64"),
        (torch.eye(3, 5).to_sparse(), "sparse"),
    ):
        with pytest.raises(InputError, match=f"seed.*{message}"):
            fxlrp.compile(model)(x, seed=(lambda _, seed=seed: seed) if as_function else seed)
