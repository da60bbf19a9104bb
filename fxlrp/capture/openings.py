"""Modules whose forward branches on the dimensions of its input, written so that tracing can follow them.

Tracing knows no dimensions. These forwards compute what the module computes in eval mode without asking for them;
they are put on the copy that is traced, never on the user's model.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fxlrp.capture.stand_ins import recorded
from fxlrp.errors import CaptureError
from fxlrp.vocabulary import expect_dims

_expect_dims = recorded(expect_dims)


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


_OPENINGS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    nn.modules.batchnorm._BatchNorm.forward: _batch_norm,
    nn.SyncBatchNorm.forward: _batch_norm,
    nn.modules.instancenorm._InstanceNorm.forward: _instance_norm,
    nn.ConvTranspose1d.forward: _conv_transpose,
    nn.ConvTranspose2d.forward: _conv_transpose,
    nn.ConvTranspose3d.forward: _conv_transpose,
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
