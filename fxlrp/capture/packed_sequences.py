"""Packed sequences in symbolic tracing: padded sequences and their lengths, on which recurrent layers compute the same.

A padded sequence gives the states of a packed one up to its length. The backward direction reads each sequence
reversed up to its length, and the final state is that at the last element.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.nn.utils import rnn

from fxlrp.capture.recorded_functions import recorded
from fxlrp.errors import SymbolicTraceError
from fxlrp.functions import initial_state
from fxlrp.sequences import is_padding, last_index, longest, packed_cell_state, reversed_index

_initial_state = recorded(initial_state)
# Not as names of this module, in which tracing would replace them.
_ORIGINALS: dict[str, Callable[..., Any]] = {"pack": rnn.pack_padded_sequence, "pad": rnn.pad_packed_sequence}


@dataclass(frozen=True)
class TracedSequences:
    """What tracing has in place of a ``PackedSequence``.

    Args:
        padded: The sequences, ``(batch, length, features)``, with any values after their ends.
        lengths: Their lengths.
    """

    padded: Tensor
    lengths: Tensor

    def __getattr__(self, name: str) -> Any:
        """Refuse what only a packed sequence has."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise SymbolicTraceError(f"tracing does not support the attribute {name!r} of a packed sequence")


def _is_traced(*values: Any) -> bool:
    return any(isinstance(leaf, fx.Proxy | TracedSequences) for leaf in pytree.tree_leaves(values))


def _pack(input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True) -> Any:
    if not _is_traced(input, lengths):
        return _ORIGINALS["pack"](input, lengths, batch_first, enforce_sorted)
    if isinstance(lengths, list | tuple):
        lengths = torch.tensor(lengths)
    if isinstance(lengths, fx.Proxy) and (lengths.node.op, lengths.node.target) == ("call_method", "tolist"):
        (source,) = lengths.node.all_input_nodes
        lengths = lengths.tracer.proxy(source)
    return TracedSequences(input if batch_first else input.transpose(0, 1), lengths)


def _pad(sequence: Any, batch_first: bool = False, padding_value: float = 0.0, total_length: Any = None) -> Any:
    if not _is_traced(sequence):
        return _ORIGINALS["pad"](sequence, batch_first, padding_value, total_length)
    x, lengths = sequence.padded, sequence.lengths
    x = x.masked_fill(recorded(is_padding)(x, lengths), padding_value)
    if total_length is None:
        x = x[:, : recorded(longest)(lengths)]
    else:
        x = F.pad(x, (0, 0, 0, total_length - x.size(1)), value=padding_value)
    return x if batch_first else x.transpose(0, 1), lengths


REPLACED: dict[Callable[..., Any], Callable[..., Any]] = {_ORIGINALS["pack"]: _pack, _ORIGINALS["pad"]: _pad}


def recurrent(self: nn.RNNBase, sequences: TracedSequences, hx: Any = None) -> Any:
    """The result of ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` for packed sequences."""
    x, lengths, is_lstm = sequences.padded, sequences.lengths, isinstance(self, nn.LSTM)
    directions = 2 if self.bidirectional else 1
    if hx is None:
        sizes = (self.proj_size or self.hidden_size, self.hidden_size) if is_lstm else (self.hidden_size,)
        states = [_initial_state(x, self.num_layers * directions, size, 0) for size in sizes]
    else:
        states = list(hx) if is_lstm else [hx]
    kernel = recorded(getattr(torch, self.mode.lower()))
    how = (self.bias, 1, 0.0, False, False, True)
    weights = [[getattr(self, name) for name in names] for names in self._all_weights]
    layer, finals = x, []
    for first in range(0, len(weights), directions):
        outputs = []
        for index in range(first, first + directions):
            is_backward = index > first
            given = _reversed(layer, lengths) if is_backward else layer
            own = [state[index : index + 1] for state in states]
            out = kernel(given, own if is_lstm else own[0], weights[index], *how)[0]
            finals.append(torch.gather(out, 1, recorded(last_index)(out, lengths))[:, 0])
            outputs.append(_reversed(out, lengths) if is_backward else out)
        layer = torch.cat(outputs, -1) if directions > 1 else outputs[0]
    result = TracedSequences(layer, lengths)
    if not is_lstm:
        return result, torch.stack(finals)
    flat = [weight for group in weights for weight in group]
    cell = recorded(packed_cell_state)(x, lengths, states, flat, self.bias, self.num_layers, self.bidirectional)
    return result, (torch.stack(finals), cell)


def _reversed(x: Tensor, lengths: Tensor) -> Tensor:
    return torch.gather(x, 1, recorded(reversed_index)(x, lengths))
