"""Modules whose forward branches on the dimensions of its input, written so that tracing can follow them.

Tracing knows no dimensions. These forwards compute what the module computes in eval mode without asking for them;
they are put on the copy that is traced, never on the user's model.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxlrp.capture.stand_ins import recorded
from fxlrp.errors import CaptureError, SymbolicTraceError
from fxlrp.functions import attention_mask, both_masks, expect_dims, initial_state, mask_scores, padding_mask

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
    input = _expect_dims(input, dims, f"{type(self).__name__} is followed for inputs with a batch dimension")
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
    """What ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` compute for a batch of sequences of one length."""
    directions = 2 if self.bidirectional else 1
    input = _expect_dims(input, 3, f"{type(self).__name__} is followed for inputs with a batch dimension")
    is_lstm = isinstance(self, nn.LSTM)
    if hx is None:
        sizes = (self.proj_size or self.hidden_size, self.hidden_size) if is_lstm else (self.hidden_size,)
        zeros = [
            _initial_state(input, self.num_layers * directions, size, 0 if self.batch_first else 1) for size in sizes
        ]
        hx = zeros if is_lstm else zeros[0]
    kind = self.mode.lower()
    weights = [getattr(self, name) for names in self._all_weights for name in names]
    # The arguments are a constant dropout of zero, and no training.
    how = (self.bias, self.num_layers, 0.0, False, self.bidirectional, self.batch_first)
    result = recorded(getattr(torch, kind))(input, list(hx) if is_lstm else hx, weights, *how)
    return (result[0], (result[1], result[2])) if is_lstm else (result[0], result[1])


def _cell(self: nn.RNNCellBase, input: Tensor, hx: Any = None) -> Any:
    """What ``nn.LSTMCell``, ``nn.GRUCell`` and ``nn.RNNCell`` compute for a batch."""
    input = _expect_dims(input, 2, f"{type(self).__name__} is followed for inputs with a batch dimension")
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
    """What ``nn.MultiheadAttention`` computes for a batch."""
    if self.bias_k is not None or self.add_zero_attn:
        raise SymbolicTraceError("MultiheadAttention with bias_k or add_zero_attn cannot be followed")
    heads, features = self.num_heads, self.head_dim
    weights: Any = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
    if self._qkv_same_embed_dim:
        weights = self.in_proj_weight.chunk(3)
    biases: Any = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
    why = "MultiheadAttention is followed for inputs with a batch dimension"
    inputs = [_expect_dims(query, 3, why)]
    # One value that is used three times stays one.
    inputs += [inputs[0] if each is query else each for each in (key, value)]
    split = []
    for position, each in enumerate(inputs):
        each = F.linear(each, weights[position], biases[position])
        each = each if self.batch_first else each.transpose(0, 1)
        split.append(each.unflatten(-1, (heads, features)).transpose(1, 2))
    q, k, v = split
    mask = _merged_mask(attn_mask, key_padding_mask, heads)
    scores = (q * features**-0.5) @ k.transpose(-2, -1)
    if mask is None:
        attention = torch.softmax(scores, -1)
    else:
        attention = recorded(torch._safe_softmax)(recorded(mask_scores)(scores, mask), -1)
    out = (attention @ v).transpose(1, 2).flatten(2)
    out = self.out_proj(out if self.batch_first else out.transpose(0, 1))
    if not need_weights:
        return out, None
    return out, attention.mean(1) if average_attn_weights else attention


def _merged_mask(attn_mask: Any, key_padding_mask: Any, heads: int) -> Any:
    """One mask that broadcasts to ``(batch, heads, queries, keys)``."""
    if attn_mask is not None:
        attn_mask = recorded(attention_mask)(attn_mask, heads)
    if key_padding_mask is None:
        return attn_mask
    padding = recorded(padding_mask)(key_padding_mask)
    return padding if attn_mask is None else recorded(both_masks)(attn_mask, padding)


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
    """Give the modules of ``copy`` whose class has such a forward the one that tracing can follow."""
    for module in copy.modules():
        # Hooks of the backward pass have nothing to see in tracing.
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
        opening = _OPENINGS.get(type(module).forward)
        if opening is not None and "forward" not in vars(module):
            module.forward = types.MethodType(opening, module)
