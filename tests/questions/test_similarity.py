"""BiLRP against the Hessian of the similarity, and its sum against the similarity."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import zoo
from fxlrp.errors import InputError
from helpers import LRP0
from oracles import assert_relevance, random


def encoder(features: int = 7) -> nn.Module:
    layers = [
        nn.Conv2d(2, 4, 3, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, features, bias=False),
    ]
    return zoo.without_biases(zoo.initialise(nn.Sequential(*layers).double()))


X, Y = random(2, 2, 6, 6), random(2, 2, 6, 6, seed=1)


def by_hessian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The pairs of one sample: x_i y_j times the mixed derivative of the dot product (Eberle et al., 2022)."""

    def dot(first: Tensor, second: Tensor) -> Tensor:
        return (model(first) * model(second)).sum()

    mixed: Any = torch.autograd.functional.hessian(dot, (x, y))
    return (mixed[0][1].reshape(x.numel(), y.numel()) * x.reshape(-1, 1) * y.reshape(1, -1)).detach()


@pytest.mark.parametrize("chunk", [1, 3, 7, 16])
def test_pairs_are_those_of_the_hessian(chunk: int) -> None:
    model = encoder()
    pairs = fxlrp.similarity(fxlrp.compile(model, LRP0), X, Y, chunk=chunk)
    assert pairs.shape == (2, 2, 6, 6, 2, 6, 6)
    for index in range(2):
        expected = by_hessian(model, X[index : index + 1], Y[index : index + 1])
        assert_relevance(pairs[index].reshape(72, 72), expected, 1e-10)


@pytest.mark.parametrize("pool", [None, 2, 4])
def test_pairs_add_up_to_the_similarity(pool: int | None) -> None:
    model = encoder()
    explain = fxlrp.compile(model, LRP0)
    dot = (model(X) * model(Y)).sum(1).detach()
    assert_relevance(fxlrp.similarity(explain, X, Y, pool=pool).flatten(1).sum(1), dot, 1e-10)
    cosine = torch.cosine_similarity(model(X), model(Y)).detach()
    assert_relevance(fxlrp.similarity(explain, X, Y, pool=pool, cosine=True).flatten(1).sum(1), cosine, 1e-10)


def test_squares_of_pixels() -> None:
    explain = fxlrp.compile(encoder(), LRP0)
    pairs = fxlrp.similarity(explain, X, Y)
    squares = fxlrp.similarity(explain, X, Y, pool=4)
    assert squares.shape == (2, 2, 2, 2, 2)
    torch.testing.assert_close(squares[:, 0, 1, 1, 0], pairs[:, :, :4, 4:, :, 4:, :4].sum((1, 2, 3, 4, 5, 6)))
    columns = fxlrp.similarity(explain, X, Y, pool=lambda relevance: relevance.sum((1, 2)))
    torch.testing.assert_close(columns, pairs.sum((1, 2, 4, 5)))


def test_tokens_and_places() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3, bias=False)).double().eval()
    explain = fxlrp.compile(model, LRP0)
    x, y = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[8, 7, 3, 2, 0]])
    pairs = fxlrp.similarity(explain, x, {"input": y})
    dot = (model(x) * model(y)).sum(1).detach()
    assert pairs.shape == (1, 5, 5)
    assert_relevance(pairs.sum((1, 2)), dot, 1e-10)
    spans = fxlrp.similarity(explain, x, y, pool=2)
    assert spans.shape == (1, 3, 3)
    torch.testing.assert_close(spans[0, 0, 2], pairs[0, :2, 4:].sum())
    features = fxlrp.similarity(explain, x, y, at="0")
    torch.testing.assert_close(features.sum((2, 4)), pairs)


def test_what_does_not_fit() -> None:
    explain = fxlrp.compile(encoder(), LRP0)
    cases: list[tuple[Any, str]] = [
        ({"chunk": 0}, "chunk must be a whole number"),
        ({"pool": 0}, "pool must be a whole number of at least 1"),
        ({"pool": torch.sum}, "keeps the first dimension"),
        ({"at": ["0", "1"]}, "one input or place can be explained, not 2"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            fxlrp.similarity(explain, X, Y, **options)
    with pytest.raises(InputError, match="equal numbers of samples"):
        fxlrp.similarity(explain, X, Y[:1])
    with pytest.raises(InputError, match=r"the shape \(batch, features\)"):
        fxlrp.similarity(fxlrp.compile(nn.Conv2d(2, 3, 1).double().eval()), X, Y)
