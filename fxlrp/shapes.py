"""The shapes and types of a graph's values for given inputs, without computing any of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)

from fxlrp.autocast_cache import without_fake_weights
from fxlrp.errors import InputError
from fxlrp.layouts import is_distributed
from fxlrp.quiet import quiet


@dataclass(frozen=True)
class InputSpec:
    """The specification of a tensor: its shape, type and device, without values."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def is_floating(self) -> bool:
        """Whether the tensor contains numbers that relevance can reach, not indices or truth values."""
        return self.dtype.is_floating_point or self.dtype.is_complex

    @staticmethod
    def of(value: Any) -> InputSpec:
        """The specification of a tensor.

        Raises:
            InputError: The tensor is nested.
        """
        if value.is_nested:
            raise InputError("nested tensors are not supported: pad the input, with torch.nested.to_padded_tensor(...)")
        return InputSpec(tuple(int(size) for size in value.shape), value.dtype, value.device)


@dataclass
class Inferred:
    """What is known of the values of a graph.

    Args:
        values: The specification of every tensor, by name.
        sizes: The value of every size, and of every number that is computed from sizes, by name.
    """

    values: dict[str, InputSpec]
    sizes: dict[str, int | float | tuple[int, ...]]


# A value whose size depends on values, as of x[mask], or that follows from such a value.
_UNKNOWN = object()


class _Reader(fx.Interpreter):
    """Runs a graph on fake tensors and records their specifications.

    Equal calls, as in the blocks of a transformer, run once.
    """

    def __init__(self, graph_module: fx.GraphModule, graph: fx.Graph) -> None:
        super().__init__(graph_module, graph=graph)
        self.inferred = Inferred({}, {})
        self._results: dict[Any, Any] = {}

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = super().get_attr(target, args, kwargs)
        # On several devices, inputs are as large as on one.
        return torch.empty(value.shape, dtype=value.dtype, device=value.device) if is_distributed(value) else value

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            call = (target, _key(args), _key(kwargs))
            hash(call)
        except TypeError:
            return super().call_function(target, args, kwargs)
        if call not in self._results:
            self._results[call] = super().call_function(target, args, kwargs)
        return self._results[call]

    def run_node(self, n: fx.Node) -> Any:
        if n.op != "output" and any(self.env.get(source) is _UNKNOWN for source in n.all_input_nodes):
            return _UNKNOWN
        try:
            value = super().run_node(n)
        except (DynamicOutputShapeException, DataDependentOutputException):
            return _UNKNOWN
        if isinstance(value, Tensor):
            self.inferred.values[n.name] = InputSpec(tuple(value.shape), value.dtype, value.device)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            self.inferred.sizes[n.name] = value
        elif isinstance(value, torch.Size):
            self.inferred.sizes[n.name] = tuple(value)
        return value


def _key(value: Any) -> Any:
    """Equal for arguments for which a function returns values of the same specification.

    Raises:
        TypeError: The values of a tensor may matter, or it has no strides.
    """
    if isinstance(value, list | tuple):
        return (type(value), *map(_key, value))
    if isinstance(value, dict):
        return tuple((name, _key(each)) for name, each in value.items())
    if isinstance(value, slice):
        return (slice, _key(value.start), _key(value.stop), _key(value.step))
    if not isinstance(value, Tensor):
        return (type(value), value)
    has_no_values = type(value) is nn.Parameter or (type(value) is FakeTensor and value.constant is None)
    if not has_no_values or value.layout != torch.strided:
        raise TypeError(f"{type(value).__name__} is more than its specification")
    geometry = (value.shape, value.stride(), value.storage_offset())
    return (*geometry, value.dtype, value.device, value.is_conj(), value.is_neg(), type(value))


def infer_values(graph_module: fx.GraphModule, graph: fx.Graph, inputs: Sequence[InputSpec]) -> Inferred:
    """The specification of every tensor of a forward graph, by name; ``graph_module`` contains its parameters."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), quiet(), without_fake_weights():
        fake = [torch.empty(spec.shape, dtype=spec.dtype, device=spec.device) for spec in inputs]
        reader = _Reader(graph_module, graph)
        reader.run(*fake, enable_io_processing=False)
    return reader.inferred


def infer_shapes(
    graph_module: fx.GraphModule, graph: fx.Graph, inputs: Sequence[InputSpec]
) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a forward graph, by name."""
    return {name: value.shape for name, value in infer_values(graph_module, graph, inputs).values.items()}
