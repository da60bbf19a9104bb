"""A program as an autograd function whose backward pass computes relevance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fxlrp.backward.split import Split


def explained_forward(split: Split, inputs: Sequence[Any], parameters: Sequence[Any]) -> tuple[Any, ...]:
    """Return the outputs of a program, whose backward pass computes the relevance of ``inputs``.

    Args:
        split: The program.
        inputs: Its inputs; those that require a gradient receive relevance instead.
        parameters: The values at ``split.parameters``. They do not receive gradients.
    """
    constants = [value.detach() if isinstance(value, Tensor) else value for value in parameters]
    values = _ExplainedForward.apply(split, *inputs, *constants)  # type: ignore[no-untyped-call]
    return tuple(values[index] for index in split.outputs)


class _ExplainedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, split: Split, *values: Any) -> tuple[Any, ...]:
        outputs, saved = split.forward(*values)
        # An output that is also an input would be the same tensor, and changes of one would change the other.
        given = {id(value) for value in values}
        outputs = tuple(
            value.clone() if isinstance(value, Tensor) and id(value) in given else value for value in outputs
        )
        ctx.split = split
        # Autograd saves tensors, and notices if one has changed; sizes are numbers, which it does not save.
        ctx.numbers = [None if isinstance(value, Tensor) else value for value in saved]
        ctx.save_for_backward(*(value for value in saved if isinstance(value, Tensor)))
        asked = {index for index, needed in enumerate(ctx.needs_input_grad[1:]) if needed}
        explained = {index for index, reads in split.explained.items() if asked & reads}
        unexplained = [value for index, value in enumerate(outputs) if index not in explained]
        ctx.mark_non_differentiable(*(value for value in unexplained if isinstance(value, Tensor)))
        ctx.count = len(values)
        device = next((value.device.type for value in values if isinstance(value, Tensor)), "cpu")
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("relevance cannot be differentiated: call backward without create_graph=True")
        tensors = iter(ctx.saved_tensors)
        saved = [next(tensors) if number is None else number for number in ctx.numbers]
        device, dtype, enabled = ctx.autocast
        with torch.autocast(device, dtype, enabled):
            relevances = ctx.split.relevance(*saved, *(gradients[index] for index in ctx.split.explained))
        asked = zip(relevances, ctx.needs_input_grad[1:], strict=False)
        found = [relevance if needed else None for relevance, needed in asked]
        return (None, *found, *[None] * (ctx.count - len(found)))
