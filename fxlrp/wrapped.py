"""Tensors that the transforms of ``torch.func`` wrap."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def layers(value: Tensor) -> Iterator[Tensor]:
    """A tensor and what it wraps, from the innermost transform to the tensor that has the values of all calls."""
    yield value
    while torch._C._functorch.is_functorch_wrapped_tensor(value):
        value = torch._C._functorch.get_unwrapped(value)
        yield value


def is_differentiated(value: Tensor) -> bool:
    """Whether a transform of ``torch.func`` differentiates with respect to a tensor."""
    return any(map(torch._C._functorch.is_gradtrackingtensor, layers(value)))


def is_inside_derivative() -> bool:
    """Whether a transform of ``torch.func`` that differentiates is around the caller."""
    kinds = torch._C._functorch.TransformType
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return any(each.key() in (kinds.Grad, kinds.Jvp) for each in stack)


# This is torch.compiler.assume_constant_result without its import of TorchDynamo: a graph has one stack of transforms.
is_inside_derivative._dynamo_marked_constant = True  # type: ignore[attr-defined]
