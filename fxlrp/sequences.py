"""Functions of padded sequences and their lengths, which stand for packed sequences."""

from __future__ import annotations

import torch
from torch import Tensor


def _positions(input: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The positions in sequences ``(batch, length, features)``, and the lengths, broadcastable to each other."""
    positions = torch.arange(input.size(1), device=input.device)[None, :, None]
    return positions, lengths.to(input.device, torch.long)[:, None, None]


def reversed_index(input: Tensor, lengths: Tensor) -> Tensor:
    """The index for ``gather`` that reverses each sequence ``(length, features)`` up to its own length."""
    positions, ends = _positions(input, lengths)
    return torch.where(positions < ends, ends - 1 - positions, positions).expand_as(input)


def last_index(input: Tensor, lengths: Tensor) -> Tensor:
    """The index for ``gather`` that takes the last element of each sequence ``(length, features)``."""
    _, ends = _positions(input, lengths)
    return (ends - 1).expand(-1, -1, input.size(-1))


def is_padding(input: Tensor, lengths: Tensor) -> Tensor:
    """True after the end of each sequence: ``(batch, length, 1)``."""
    positions, ends = _positions(input, lengths)
    return positions >= ends


def longest(input: Tensor) -> int:
    """The largest of the lengths of sequences."""
    return int(input.max())


def packed_cell_state(
    input: Tensor,
    lengths: Tensor,
    states: list[Tensor],
    params: list[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
) -> Tensor:
    """The final cell state of an LSTM for packed sequences."""
    packed = torch.nn.utils.rnn.pack_padded_sequence(input, lengths.cpu(), batch_first=True, enforce_sorted=False)
    order, unsorted = packed.sorted_indices, packed.unsorted_indices
    given = [state if order is None else state.index_select(1, order) for state in states]
    result = torch.lstm(
        packed.data, packed.batch_sizes, given, params, has_biases, num_layers, 0.0, False, bidirectional
    )
    cell: Tensor = result[2]
    return cell if unsorted is None else cell.index_select(1, unsorted)
