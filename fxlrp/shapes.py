"""The shapes of a graph's values for given inputs, without computing any of them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)


@dataclass(frozen=True)
class InputSpec:
    """What an input looks like, without its values."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def is_floating(self) -> bool:
        """Whether relevance can reach such an input."""
        return self.dtype.is_floating_point

    @staticmethod
    def of(value: Any) -> InputSpec:
        """The specification of a tensor."""
        return InputSpec(tuple(int(size) for size in value.shape), value.dtype, value.device)


class _ShapeReader(fx.Interpreter):
    """Runs a graph on fake tensors and keeps the shapes."""

    def __init__(self, graph_module: fx.GraphModule, graph: fx.Graph) -> None:
        super().__init__(graph_module, graph=graph)
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n.name] = tuple(value.shape)
        return value


def infer_shapes(
    graph_module: fx.GraphModule, graph: fx.Graph, inputs: Sequence[InputSpec]
) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a forward graph by name, for ``inputs``; ``graph_module`` holds its parameters."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        fake = [torch.empty(spec.shape, dtype=spec.dtype, device=spec.device) for spec in inputs]
        reader = _ShapeReader(graph_module, graph)
        # Sizes that depend on values, as of x[mask], and what follows from them stay unknown.
        with contextlib.suppress(DynamicOutputShapeException, DataDependentOutputException):
            reader.run(*fake, enable_io_processing=False)
    return reader.shapes
