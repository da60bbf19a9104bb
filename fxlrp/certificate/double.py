"""Run nodes of a graph in double precision, whatever the type of the model and of the casts in the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from fxlrp.vocabulary.lookup import Vocabulary

_WIDE = {torch.complex32: torch.complex128, torch.complex64: torch.complex128}


def widened(value: Any) -> Any:
    """Real and complex tensors in double precision, and their types as arguments; any other value as it is."""
    return map_aggregate(value, _widened)


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(_wide(value.dtype))
    return _wide(value) if isinstance(value, torch.dtype) else value


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype.is_floating_point else _WIDE.get(dtype, dtype)


class InDouble:
    """Computes the nodes of a graph one by one. Parameters are widened where the graph reads them."""

    def __init__(self, graph_module: fx.GraphModule, vocabulary: Vocabulary) -> None:
        """Prepare to run nodes of ``graph_module``.

        Args:
            graph_module: The module of the graph, with the parameters that it reads.
            vocabulary: The canonical operations.
        """
        self._reader = fx.Interpreter(graph_module)
        self._vocabulary = vocabulary

    def call(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a node, given the values of others."""
        args = fx.map_arg(node.args, lambda each: values[each])
        kwargs = fx.map_arg(node.kwargs, lambda each: values[each])
        # Only the types: the values are wide.
        return map_aggregate(args, _widened), map_aggregate(kwargs, _widened)

    def value(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value of a ``get_attr`` or ``call_function`` node.

        Args:
            node: The node.
            args: Its arguments.
            kwargs: Its named arguments.
        """
        if node.op == "get_attr":
            return widened(self._reader.fetch_attr(str(node.target)))
        assert callable(node.target)
        return self._cast(node, args, node.target(*args, **kwargs))

    def _cast(self, node: fx.Node, args: tuple[Any, ...], value: Any) -> Any:
        """The widened value; of a cast to a narrower type that of the operand, which the cast would round."""
        operation = self._vocabulary.operation(node)
        is_narrow = isinstance(value, Tensor) and _wide(value.dtype) != value.dtype
        source = args[0] if args else None
        if is_narrow and operation is not None and operation.is_cast and isinstance(source, Tensor):
            return source.to(value.device, _wide(value.dtype))
        return widened(value)
