"""check_inputs: an input whose relevance would be lost on every way is an error, and the table says the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
from fxlrp import presets
from fxlrp.errors import InputError, LostInputError, UnsupportedOpError
from helpers import slow_ones
from oracles import random

CAPTURES = ["symbolic", *slow_ones("export")]
X, TOKENS = random(2, 4), torch.tensor([[0, 3, 1, 2], [2, 2, 5, 1]])
TABLE, HEAD = random(20, 4, seed=1), random(4, 3, seed=2)
Second = Callable[["Net", Tensor, Tensor], Tensor]


class Net(nn.Module):
    """``x`` and what a function makes of a second input."""

    def __init__(self, function: Second) -> None:
        super().__init__()
        self.function = function
        self.embedding, self.head = nn.Embedding.from_pretrained(TABLE), nn.Parameter(HEAD)
        self.register_buffer("rows", TABLE.clone())

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.function(self, x, other) @ self.head


LOST: dict[str, tuple[Second, str]] = {
    "remainder": (lambda s, x, t: x + s.embedding(t % 10).sum(1), r"mod|remainder"),
    "division": (lambda s, x, t: x + s.embedding(t // 2).sum(1), r"floordiv|floor_divide|div"),
    "another table": (lambda s, x, t: x + s.rows[t].sum(1), "getitem"),  # type: ignore[index]
    "index_select": (lambda s, x, t: x + s.rows.index_select(0, t[:, 0]), "index_select"),  # type: ignore[operator]
    "comparison": (lambda s, x, t: x + (t > 1).double(), "gt"),
    "float": (lambda s, x, t: x + t.double(), "add"),
    "sum": (lambda s, x, t: x + t, "add"),
    "joined": (lambda s, x, t: torch.cat([x, t.double()], 1)[:, 2:6], "cat"),
    "truth values": (lambda s, x, t: x + s.embedding(t.bool().long()).sum(1), "bool|to"),
    "one hot": (lambda s, x, t: x + (F.one_hot(t, 20).double() @ s.rows).sum(1), "one_hot|eq|scatter"),  # type: ignore[operator]
    "sum of two": (lambda s, x, t: x + s.embedding(t + t.flip(1)).sum(1), "add"),
}


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("name", LOST)
def test_integers_that_lose_their_relevance_are_an_error(name: str, capture: Any) -> None:
    model = Net(LOST[name][0]).eval()
    with pytest.raises(LostInputError, match=rf"other: through the node .*operation \S*({LOST[name][1]})") as caught:
        fxlrp.compile(model, example_inputs=(X, TOKENS), capture=capture)
    assert "constants=['other']" in str(caught.value) and "'x'" not in str(caught.value)
    explain = fxlrp.compile(model, presets.epsilon(), example_inputs=(X, TOKENS), capture=capture, constants=["other"])
    relevance = explain(X, TOKENS, target=1)
    assert isinstance(relevance, Tensor) and relevance.shape == X.shape and relevance.any()
    assert "declared a constant" in str(explain)


SELECTING: dict[str, Second] = {
    "index": lambda s, x, t: x[torch.arange(2)[:, None], t.clamp(max=3)],
    "gather": lambda s, x, t: x.gather(1, t.clamp(max=3)),
    "where": lambda s, x, t: torch.where(t > 1, x, 0.0),
    "masked_fill": lambda s, x, t: x.masked_fill(t == 1, -1.0),
    "factor": lambda s, x, t: x * t,
    "mean of what is kept": lambda s, x, t: x * (t != 1).double() / (t != 1).sum(1, keepdim=True).double(),
    "matrix": lambda s, x, t: (x[:, None] @ (t[:, :, None] > t[:, None]).double())[:, 0],
    "mask of scores": lambda s, x, t: (x + (1.0 - t.bool().double()) * -9.0).softmax(-1) * x,
    "mask of scores in two steps": lambda s, x, t: ((x + t.double()) + (t > 1).double()).unsqueeze(0).softmax(-1)[0],
    "not used": lambda s, x, t: x,
    "only its size": lambda s, x, t: x * t.shape[1] + torch.zeros_like(t).double(),
}


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("name", SELECTING)
def test_integers_that_select_or_scale_have_no_relevance_of_their_own(name: str, capture: Any) -> None:
    explain = fxlrp.compile(Net(SELECTING[name]).eval(), example_inputs=(X, TOKENS), capture=capture)
    relevance = explain(X, TOKENS, target=1)
    assert isinstance(relevance, Tensor) and relevance.shape == X.shape
    assert ("not used" if name == "not used" else "integers that only select or scale") in str(explain)


ROUNDED: dict[str, Second] = {
    "table": lambda s, x, y: x + s.embedding(y.abs().long()).sum(1),
    "arithmetic": lambda s, x, y: x + (2 * y).int().double(),
    "type of another": lambda s, x, y: x + s.embedding((y * 3).abs().type_as(torch.ones(1, dtype=torch.long))).sum(1),
}


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("name", ROUNDED)
def test_numbers_of_which_every_way_is_rounded_are_an_error(name: str, capture: Any) -> None:
    model, y = Net(ROUNDED[name]).eval(), random(2, 4, seed=3)
    with pytest.raises(LostInputError, match=r"other: through the node .*operation (long|int|to)\b"):
        fxlrp.compile(model, example_inputs=(X, y), capture=capture)
    explain = fxlrp.compile(model, example_inputs=(X, y), capture=capture, constants=["other"])
    assert isinstance(explain(X, y, target=1), Tensor)


def test_numbers_that_are_rounded_on_one_way_to_a_table() -> None:
    """A column of categories among numbers: the numbers are explained, and the table says what is lost."""

    class Columns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding.from_pretrained(TABLE), nn.Parameter(HEAD)

        def forward(self, x: Tensor) -> Tensor:
            return (self.embedding(x[:, 0].long()) + x[:, 1:]) @ self.head

    x = torch.cat([torch.tensor([[1.0], [4.0]], dtype=torch.float64), X], 1)
    explain = fxlrp.compile(Columns().eval(), presets.epsilon(1e-12), example_inputs=x)
    torch.testing.assert_close(explain(x, target=1)[:, 1:], X * HEAD[:, 1], rtol=1e-8, atol=1e-9)
    (line,) = (line for line in str(explain).splitlines() if line.startswith("x "))
    assert "in part" in line and "operation long" in line


def test_numbers_that_are_rounded_on_one_way_of_arithmetic() -> None:
    with pytest.raises(UnsupportedOpError, match="cast to integers"):
        fxlrp.compile(Net(lambda s, x, y: x + y + y.long().double()).eval(), example_inputs=(X, X))


@pytest.mark.parametrize("examples", [None, TOKENS])
def test_an_input_alone(examples: Tensor | None) -> None:
    class Hashed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding.from_pretrained(TABLE)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.embedding(tokens % 7).sum(1)

    with pytest.raises(LostInputError, match=r"tokens: through the node 'mod'"):
        fxlrp.compile(Hashed().eval(), example_inputs=examples)
    with pytest.raises(InputError, match="no input is left to explain"):
        fxlrp.compile(Hashed().eval(), example_inputs=examples, constants=["tokens"])


def test_tokens_that_are_also_looked_up_elsewhere_are_explained() -> None:
    """Positions from a mask of the tokens, as RoBERTa has them: the tokens have another way."""
    model = Net(lambda s, x, t: x + (s.embedding(t) + s.rows[(t != 1).long().cumsum(1)]).sum(1)).eval()  # type: ignore[index]
    explain = fxlrp.compile(model, example_inputs=(X, TOKENS))
    assert explain(X, TOKENS, target=1).keys() == {"x", "other"}
    (line,) = (line for line in str(explain).splitlines() if line.startswith("other "))
    assert "in part through the node 'ne'" in line


def test_at_a_module_no_input_is_explained() -> None:
    model = Net(LOST["remainder"][0]).eval()
    assert fxlrp.compile(model, example_inputs=(X, TOKENS), at="add")(X, TOKENS, target=1).shape == X.shape


def test_the_backward_of_a_model_needs_no_declaration() -> None:
    """Integers have no gradient there."""
    x = X.clone().requires_grad_()
    fxlrp.autograd(Net(LOST["remainder"][0]).eval(), example_inputs=(X, TOKENS))(x, TOKENS)[:, 1].sum().backward()
    assert x.grad is not None and x.grad.any()
