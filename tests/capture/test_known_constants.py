"""Conditions on tensors that are made of numbers alone are followed; the values are those at that place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import CaptureError
from helpers import LRP0, one_in
from oracles import assert_relevance, random
from zoo import gradient_times_input


class Net(nn.Module):
    """Two layers, of which a condition chooses one, and a branch on a size, which symbolic tracing cannot follow."""

    def __init__(self, condition: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
        self.condition = condition

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > 100:
            raise ValueError
        out: Tensor = self.a(x) if self.condition(x) else self.b(x)
        return out


def changed_in_place(x: Tensor) -> Any:
    mask = torch.zeros(3, 4)
    part = mask[1]
    part[0] = 2
    mask.add_(1)
    return part.max() == 3


def changed_between_conditions(x: Tensor) -> Any:
    mask = torch.zeros(4)
    before = bool(mask.any())
    mask[0] = 1
    return not before and mask.any()


def part_of_the_size_of_the_batch(x: Tensor) -> Any:
    mask = torch.zeros(8)
    mask[: x.shape[0]].fill_(1)
    return mask.sum() == 2


CONDITIONS: dict[str, Callable[[Tensor], Any]] = {
    "size of the input": lambda x: torch.ones(x.shape[1]).sum() == 4,
    "causal mask": lambda x: torch.triu(torch.ones(4, 4), 1)[0, 1] > 0,
    "number": lambda x: torch.arange(5)[-1].item() - 4,
    "list": lambda x: torch.arange(3).tolist()[1],
    "equal": lambda x: torch.equal(torch.zeros(2), torch.ones(2)),
    "in place": changed_in_place,
    "changed between": changed_between_conditions,
    "size of the batch": part_of_the_size_of_the_batch,
}


@pytest.mark.parametrize("name", one_in(3, CONDITIONS))
def test_a_condition_on_constants_is_followed(name: str) -> None:
    model, x = Net(CONDITIONS[name]).double().eval(), random(2, 4)
    explain = fxlrp.compile(model, LRP0, example_inputs=x)
    assert explain.front_end == "export"
    for batch in (2, 5):
        x = random(batch, 4)
        (expected,) = gradient_times_input(model, x, select=lambda y: y[:, 1].sum())
        assert_relevance(explain(x, target=1), expected, 1e-12)


def of_the_input(x: Tensor) -> Any:
    mask = torch.zeros(2, 4, dtype=x.dtype)
    mask.copy_(x)
    return mask.any()


def of_the_input_in_a_part(x: Tensor) -> Any:
    mask = torch.zeros(8, dtype=x.dtype)
    mask[: x.shape[0]].copy_(x[:, 0])
    return mask.any()


def random_numbers(x: Tensor) -> Any:
    return torch.rand(3).sum() > 1.5


def not_initialized(x: Tensor) -> Any:
    return torch.empty(3).any()


@pytest.mark.parametrize("condition", [of_the_input, of_the_input_in_a_part, random_numbers, not_initialized])
def test_a_condition_on_other_values_is_refused(condition: Callable[[Tensor], Any]) -> None:
    state = torch.random.get_rng_state()
    model = Net(condition).eval()
    torch.random.set_rng_state(state)
    with pytest.raises(CaptureError, match="but not on other values"):
        fxlrp.compile(model, example_inputs=torch.ones(2, 4))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("first", [1, 3])
def test_causal_masks_of_transformers_at_every_length(first: int) -> None:
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(x.size(1), dtype=x.dtype)
            out: Tensor = self.head(self.encoder(x, mask=mask)[:, 0])
            return out

    torch.manual_seed(0)
    model = Causal().double().eval()
    explain = fxlrp.compile(model, "epsilon", example_inputs=random(first, 4, 8))
    for batch, length in ((1, 4), (2, 4), (2, 6)):
        relevance = explain(random(batch, length, 8), target=1)
        # The first position sees nothing of the others.
        assert relevance.shape == (batch, length, 8) and float(relevance[:, 1:].abs().max()) == 0
        assert float(relevance[:, 0].abs().min()) > 0
