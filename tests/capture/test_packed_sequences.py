"""Packed sequences: the relevance of each sequence is that which it has alone, without padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fxlrp
from oracles import assert_relevance, random

RULES = fxlrp.presets.epsilon(1e-9)
KINDS: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Net(nn.Module):
    """A recurrent net on sequences of the given lengths; without lengths on a batch of whole sequences."""

    def __init__(self, kind: str, read: str, batch_first: bool = True, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = KINDS[kind](3, 4, batch_first=batch_first, **options)
        width = (options.get("proj_size") or 4) * (2 if options.get("bidirectional") else 1)
        self.head, self.read, self.batch_first = nn.Linear(width, 2), read, batch_first

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        if lengths is not None:
            x = pack_padded_sequence(x, lengths, batch_first=self.batch_first, enforce_sorted=False)  # type: ignore[assignment]
        states, final = self.layers(x)
        if self.read == "final":
            final = final[0] if isinstance(final, tuple) else final
            directions = final[-2:] if self.layers.bidirectional else final[-1:]
            out: Tensor = self.head(directions.transpose(0, 1).flatten(1))
            return out
        if lengths is not None:
            states, _ = pad_packed_sequence(states, batch_first=self.batch_first)
        states = states if self.batch_first else states.transpose(0, 1)
        summed: Tensor = self.head(states.sum(1))
        return summed


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("lstm", "final", {}),
    ("lstm", "states", {"num_layers": 2, "bidirectional": True}),
    ("lstm", "final", {"bidirectional": True, "batch_first": False}),
    ("lstm", "states", {"proj_size": 2}),
    ("gru", "final", {"num_layers": 2}),
    ("gru", "states", {"bidirectional": True, "bias": False}),
    ("rnn", "states", {"batch_first": False}),
]


@pytest.mark.parametrize(("kind", "read", "options"), CASES)
def test_the_relevance_of_a_sequence_is_that_which_it_has_alone(kind: str, read: str, options: dict[str, Any]) -> None:
    model = Net(kind, read, **options).double().eval()
    explain = fxlrp.compile(model, RULES, example_inputs=(random(2, 5, 3), torch.tensor([5, 3])))
    alone = fxlrp.compile(model, RULES)
    assert explain.front_end == "symbolic"
    for lengths in ([5, 3], [2, 5, 1], [4, 2]):
        x = random(len(lengths), 5, 3)
        given = torch.tensor(lengths)
        found = explain(x, given, target=1)
        found = found["x"] if isinstance(found, dict) else found
        for sample, length in enumerate(lengths):
            wanted = alone(x[sample : sample + 1, :length], target=1)
            assert_relevance(found[sample : sample + 1, :length], wanted, 1e-9)
            assert float(found[sample, length:].abs().sum()) == 0


class Constant(nn.Module):
    """Lengths of the model itself, the functions through their module, the total length, and the cell state."""

    def __init__(self, cell: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.head, self.cell = nn.LSTM(3, 4), nn.Linear(4, 2, bias=False), cell

    def forward(self, x: Tensor) -> Tensor:
        packed = rnn.pack_padded_sequence(x, [3, 2])
        states, (_, cell) = self.lstm(packed)
        padded, _ = rnn.pad_packed_sequence(states, padding_value=0.5, total_length=x.size(0))
        out: Tensor = self.head(padded.sum(0) + (cell[0] if self.cell else 0))
        return out


def test_the_forward_is_that_of_the_model() -> None:
    model, x = Constant().double().eval(), random(4, 2, 3)
    seen: list[Tensor] = []

    def seed(output: Tensor) -> Tensor:
        seen.append(output)
        return output

    fxlrp.compile(model, RULES, capture="symbolic")(x, seed=seed)
    torch.testing.assert_close(seen[0], model(x).detach())


def test_relevance_through_the_cell_state_is_refused() -> None:
    with pytest.raises(fxlrp.errors.UnsupportedOpError, match="packed_cell_state"):
        fxlrp.compile(Constant(cell=True).eval(), capture="symbolic")


def test_nothing_is_left() -> None:
    fxlrp.compile(Constant().eval(), RULES, capture="symbolic")
    assert rnn.pack_padded_sequence is pack_padded_sequence
    packed = rnn.pack_padded_sequence(torch.ones(3, 2, 1), [3, 2])
    assert isinstance(packed, rnn.PackedSequence)


def test_sequences_of_constants_are_packed_by_torch() -> None:
    class Packs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4), nn.Linear(4, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            packed = pack_padded_sequence(torch.ones(3, 2, 1), [3, 2])
            assert isinstance(packed, rnn.PackedSequence)
            padded, lengths = pad_packed_sequence(packed)
            out: Tensor = self.head(self.lstm(x)[0].sum(0)) * float(padded.sum()) * int(lengths[1])
            return out

    model, x = Packs().double().eval(), random(4, 2, 3)
    seen: list[Tensor] = []
    fxlrp.compile(model, RULES, capture="symbolic")(x, seed=lambda y: seen.append(y) or y)  # type: ignore[func-returns-value]
    torch.testing.assert_close(seen[0], model(x).detach())


def test_other_uses_of_packed_sequences_are_refused() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(pack_padded_sequence(x, [3, 2]))[0].data

    with pytest.raises(fxlrp.errors.CaptureError, match="attribute 'data' of a packed sequence"):
        fxlrp.compile(Reads().eval(), capture="symbolic")


def test_lengths_may_be_a_list() -> None:
    """The list of a tensor, as `pack_padded_sequence` once required, is that tensor."""

    class Listed(Net):
        def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
            packed = pack_padded_sequence(x, lengths.cpu().tolist(), batch_first=True, enforce_sorted=False)
            out: Tensor = self.head(self.layers(packed)[1][-1])
            return out

    x, lengths = random(3, 5, 3), torch.tensor([2, 5, 1])
    options: dict[str, Any] = {"example_inputs": (x, lengths), "constants": ["lengths"], "capture": "symbolic"}
    found = fxlrp.compile(Listed("gru", "final").double().eval(), RULES, **options)(x, lengths)
    plain = fxlrp.compile(Net("gru", "final").double().eval(), RULES, **options)(x, lengths)
    assert_relevance(found, plain, 1e-12)
