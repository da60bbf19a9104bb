"""How tensors lie on several devices: the functions by which models change it.

A layout has an entry for each dimension of the mesh: the dimension along which a tensor is divided, ``"replicate"``
for a copy on every device, or ``"partial"`` for terms of a sum. A tensor that is not a ``DTensor`` is as it is on one
device: all functions return it unchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import torch
from torch import Tensor, fx

from fxlrp.errors import CaptureError

Layout: TypeAlias = "tuple[int | str, ...]"
REPLICATE, PARTIAL = "replicate", "partial"


class Places(NamedTuple):
    """Where the parts of a tensor are.

    Args:
        mesh: The mesh of devices.
        placements: How the tensor lies on each dimension of the mesh.
        stride: The strides of the whole tensor.
    """

    mesh: Any
    placements: tuple[Any, ...]
    stride: tuple[int, ...]


def is_distributed(value: Any) -> TypeGuard[Any]:
    """Whether a value is a tensor on several devices, without importing what one device does not need."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def places_of(value: Any) -> Places | None:
    """Where the parts of a tensor on several devices are; None for another tensor."""
    if not is_distributed(value):
        return None
    return Places(value.device_mesh, tuple(value.placements), tuple(value.stride()))


def layout_of(placements: Sequence[Any]) -> Layout:
    """The layout that placements of PyTorch describe.

    Raises:
        CaptureError: A placement is of another kind.
    """
    return tuple(map(_entry, placements))


def _entry(placement: Any) -> int | str:
    from torch.distributed.tensor import Partial, Replicate, Shard

    if type(placement) is Replicate:
        return REPLICATE
    if type(placement) is Shard:
        return placement.dim
    if type(placement) is Partial and placement.reduce_op == "sum":
        return PARTIAL
    raise CaptureError(f"the placement {placement} is not supported: use Shard, Replicate or Partial with a sum")


def _placements(layout: Layout) -> tuple[Any, ...]:
    from torch.distributed.tensor import Partial, Replicate, Shard

    named = {REPLICATE: Replicate, PARTIAL: Partial}
    return tuple(Shard(entry) if isinstance(entry, int) else named[entry]() for entry in layout)


def from_local(input: Tensor, like: Tensor, layout: Layout) -> Tensor:
    """The tensor of which every device has its part, on the mesh of ``like``; a ``DTensor`` stays as it is."""
    if is_distributed(input) or not is_distributed(like):
        return input
    return _from_local(input, like.device_mesh, _placements(layout))


def from_parts(local: Tensor, places: Places, shape: Sequence[int]) -> Tensor:
    """The tensor of a shape of which every device has its part where another one has it; complete."""
    placements = completed(places.placements)
    return _from_local(local, places.mesh, placements, shape=torch.Size(shape), stride=places.stride)


def _from_local(local: Tensor, mesh: Any, placements: Sequence[Any], **form: Any) -> Tensor:
    from torch.distributed.tensor import DTensor

    made: Tensor = DTensor.from_local(local, mesh, placements, run_check=False, **form)
    return made


def redistribute(input: Tensor, layout: Layout = ()) -> Tensor:
    """The same tensor in another layout; without entries, a copy on every device."""
    if not is_distributed(input):
        return input
    return moved(input, _placements(layout or (REPLICATE,) * input.device_mesh.ndim))


def local_part(value: Tensor, mesh: Any, layout: Layout) -> Tensor:
    """The part of a tensor on this device in a layout. What is not a ``DTensor`` is the same on every device."""
    whole_value = value if is_distributed(value) else _from_local(value, mesh, _placements((REPLICATE,) * mesh.ndim))
    return to_local(moved(whole_value, _placements(layout)))


def joined(part: Tensor, mesh: Any, layout: Layout, shape: Sequence[int]) -> Tensor:
    """The tensor of a shape of which every device has its part in a layout."""
    stride = torch.empty(tuple(shape), device="meta").stride()
    return _from_local(part, mesh, _placements(layout), shape=torch.Size(shape), stride=stride)


def moved(value: Any, placements: Sequence[Any]) -> Tensor:
    """A ``DTensor`` with other placements."""
    same = tuple(value.placements) == tuple(placements)
    result: Tensor = value if same else value.redistribute(placements=placements)
    return result


def to_local(input: Tensor) -> Tensor:
    """The part of a tensor on this device."""
    local: Tensor = input.to_local() if is_distributed(input) else input
    return local


def whole(value: Tensor) -> Tensor:
    """A tensor with all of its elements on this device."""
    return to_local(redistribute(value))


def replicated(local: Tensor, like: Tensor) -> Tensor:
    """A tensor that is the same on every device of the mesh of ``like``, as a ``DTensor`` if that is one."""
    return local if is_distributed(local) else from_local(local, like, _copies(like))


def _copies(like: Tensor) -> Layout:
    return (REPLICATE,) * like.device_mesh.ndim if is_distributed(like) else ()


def completed(placements: Sequence[Any], others: Sequence[Any] | None = None) -> tuple[Any, ...]:
    """Placements of which none is a term of a sum: in their place those of ``others``, or copies."""
    (copy,) = _placements((REPLICATE,))
    pairs = zip(placements, placements if others is None else others, strict=True)
    chosen = (second if first.is_partial() else first for first, second in pairs)
    return tuple(copy if each.is_partial() else each for each in chosen)


def like_input(relevance: Tensor, value: Tensor) -> Tensor:
    """The relevance of an input where the input is: with all of its elements here, or divided in the same way."""
    if not is_distributed(relevance):
        return replicated(relevance, value)
    return moved(relevance, completed(value.placements)) if is_distributed(value) else whole(relevance)


def takes_local_parts(graph: fx.Graph) -> bool:
    """Whether a graph computes with the parts of tensors on this device."""
    return any(node.target is to_local for node in graph.nodes)
