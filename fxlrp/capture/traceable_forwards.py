"""Traceable forwards for modules whose own forward branches on the dimensions of its input.

Dimensions are unknown in tracing. These forwards compute the result of the module in eval mode without reading
dimensions. They replace the forwards of the traced copy, never those of the user's model.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxlrp.capture import packed_sequences
from fxlrp.capture.recorded_functions import recorded
from fxlrp.errors import CaptureError, SymbolicTraceError
from fxlrp.functions import expect_dims, initial_state

_expect_dims = recorded(expect_dims)
_initial_state = recorded(initial_state)


def _batch_norm(self: nn.modules.batchnorm._BatchNorm, input: Tensor) -> Tensor:
    if self.running_mean is None or self.running_var is None:
        raise CaptureError(
            "BatchNorm without running statistics depends on the whole batch and cannot be explained sample by sample"
        )
    statistics = (self.running_mean, self.running_var)
    return F.batch_norm(input, *statistics, self.weight, self.bias, training=False, eps=self.eps)


def _instance_norm(self: nn.modules.instancenorm._InstanceNorm, input: Tensor) -> Tensor:
    statistics = (self.running_mean, self.running_var)
    from_input = not self.track_running_stats
    dims = self._get_no_batch_dim() + 1
    input = _expect_dims(input, dims, f"{type(self).__name__} is supported only for inputs with a batch dimension")
    return F.instance_norm(input, *statistics, self.weight, self.bias, use_input_stats=from_input, eps=self.eps)


def _conv_transpose(self: nn.modules.conv._ConvTransposeNd, input: Tensor, output_size: Any = None) -> Tensor:
    if output_size is None:
        same: Tensor = type(self).forward(self, input)
        return same
    dims, padding = len(self.kernel_size), self.padding
    assert not isinstance(padding, str)
    output_padding = [
        output_size[d]
        - ((input.size(d) - 1) * self.stride[d] - 2 * padding[d] + self.dilation[d] * (self.kernel_size[d] - 1) + 1)
        for d in range(-dims, 0)
    ]
    convolution: Callable[..., Tensor] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
    geometry = (self.stride, padding, output_padding, self.groups, self.dilation)
    return convolution(input, self.weight, self.bias, *geometry)


def _recurrent(self: nn.RNNBase, input: Tensor, hx: Any = None) -> Any:
    """The result of ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` for a batch of sequences, packed or of the same length."""
    if isinstance(input, packed_sequences.TracedSequences):
        return packed_sequences.recurrent(self, input, hx)
    directions = 2 if self.bidirectional else 1
    input = _expect_dims(input, 3, f"{type(self).__name__} is supported only for inputs with a batch dimension")
    is_lstm = isinstance(self, nn.LSTM)
    if hx is None:
        sizes = (self.proj_size or self.hidden_size, self.hidden_size) if is_lstm else (self.hidden_size,)
        zeros = [
            _initial_state(input, self.num_layers * directions, size, 0 if self.batch_first else 1) for size in sizes
        ]
        hx = zeros if is_lstm else zeros[0]
    kind = self.mode.lower()
    weights = [getattr(self, name) for names in self._all_weights for name in names]
    # The constants are a dropout of zero, and training switched off.
    how = (self.bias, self.num_layers, 0.0, False, self.bidirectional, self.batch_first)
    result = recorded(getattr(torch, kind))(input, list(hx) if is_lstm else hx, weights, *how)
    return (result[0], (result[1], result[2])) if is_lstm else (result[0], result[1])


def _cell(self: nn.RNNCellBase, input: Tensor, hx: Any = None) -> Any:
    """The result of ``nn.LSTMCell``, ``nn.GRUCell`` and ``nn.RNNCell`` for a batch."""
    input = _expect_dims(input, 2, f"{type(self).__name__} is supported only for inputs with a batch dimension")
    is_lstm = isinstance(self, nn.LSTMCell)
    if hx is None:
        hx = (_cell_state(self, input), _cell_state(self, input)) if is_lstm else _cell_state(self, input)
    kind = "lstm" if is_lstm else "gru" if isinstance(self, nn.GRUCell) else f"rnn_{self.nonlinearity}"
    weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
    result = recorded(getattr(torch, f"{kind}_cell"))(input, list(hx) if is_lstm else hx, *weights)
    return (result[0], result[1]) if is_lstm else result


def _cell_state(cell: nn.RNNCellBase, input: Tensor) -> Tensor:
    state: Tensor = _initial_state(input, 1, cell.hidden_size, 0)[0]
    return state


def _attention(
    self: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The result of ``nn.MultiheadAttention`` for a batch."""
    if self.bias_k is not None or self.add_zero_attn:
        raise SymbolicTraceError("MultiheadAttention with bias_k or add_zero_attn is not supported")
    inputs: list[Any] = [query, key, value]
    if self.batch_first:
        # Keep one value that is used three times as one node.
        turned = {id(each): each.transpose(0, 1) for each in inputs}
        inputs = [turned[id(each)] for each in inputs]
    separate = {} if self._qkv_same_embed_dim else {"use_separate_proj_weight": True}
    result = recorded(F.multi_head_attention_forward)(
        *inputs,
        *(self.embed_dim, self.num_heads, self.in_proj_weight, self.in_proj_bias, None, None, False, 0.0),
        *(self.out_proj.weight, self.out_proj.bias),
        training=False,
        key_padding_mask=key_padding_mask,
        need_weights=need_weights,
        attn_mask=attn_mask,
        **separate,
        **{name: getattr(self, name) for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight") if separate},
        average_attn_weights=average_attn_weights,
    )
    out = result[0].transpose(0, 1) if self.batch_first else result[0]
    return out, result[1] if need_weights else None


_OPENINGS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    nn.modules.batchnorm._BatchNorm.forward: _batch_norm,
    nn.SyncBatchNorm.forward: _batch_norm,
    nn.modules.instancenorm._InstanceNorm.forward: _instance_norm,
    nn.ConvTranspose1d.forward: _conv_transpose,
    nn.ConvTranspose2d.forward: _conv_transpose,
    nn.ConvTranspose3d.forward: _conv_transpose,
    nn.LSTM.forward: _recurrent,
    nn.GRU.forward: _recurrent,
    nn.RNN.forward: _recurrent,
    nn.LSTMCell.forward: _cell,
    nn.GRUCell.forward: _cell,
    nn.RNNCell.forward: _cell,
    nn.MultiheadAttention.forward: _attention,
}


def open_modules(copy: nn.Module) -> None:
    """Replace the forwards of the modules of ``copy`` by traceable ones, where their class has one."""
    for module in copy.modules():
        # Backward hooks do not run in tracing.
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
        opening = _OPENINGS.get(type(module).forward)
        if opening is not None and "forward" not in vars(module):
            module.forward = types.MethodType(opening, module)
