"""The front end of ``torch.compile`` backends: the graph that TorchDynamo has captured.

It calls torch functions, as symbolic tracing does, and takes everything as an input: tensors, parameters and sizes.
Here parameters become attributes again, for the passes to know them, and sizes are read off the tensors they belong to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch._dynamo.source import TensorProperty, TensorPropertySource, is_from_unspecialized_param_buffer_source

from fxlrp.capture.export import users_line
from fxlrp.capture.live import CONSTANTS, on_live_model
from fxlrp.errors import CaptureError
from fxlrp.provenance import MODEL


class Arguments:
    """Which of the arguments that TorchDynamo calls a graph with are inputs, and which are parameters."""

    def __init__(self, graph_module: fx.GraphModule, examples: Sequence[Any]) -> None:
        """Sort the inputs of ``graph_module``, which it has captured with ``examples``."""
        self._placeholders = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
        given = list(zip(self._placeholders, examples, strict=True))
        self.inputs = [index for index, (node, value) in enumerate(given) if _is_input(node, value)]
        self.examples = {self._placeholders[index].name: examples[index] for index in self.inputs}

    def position(self, path: str) -> int:
        """Which argument is at the path of a captured graph's attribute."""
        names = [node.name for node in self._placeholders]
        return names.index(path.removeprefix(f"{CONSTANTS}."))


def _is_input(node: fx.Node, value: Any) -> bool:
    """Whether an argument is data: a tensor that is no parameter or buffer, nor a number wrapped as a tensor."""
    source = _source(node)
    is_parameter = isinstance(value, nn.Parameter) or (
        source is not None and is_from_unspecialized_param_buffer_source(source)
    )
    return isinstance(value, Tensor) and not is_parameter and not _is_number(node)


def _source(node: fx.Node) -> Any:
    return getattr(node.meta.get("grapharg"), "source", None)


def _is_number(node: fx.Node) -> bool:
    """Whether TorchDynamo has wrapped a Python number, which the graph reads by ``item`` alone."""
    return bool(node.users) and all(user.op == "call_method" and user.target == "item" for user in node.users)


def capture(graph_module: fx.GraphModule, examples: Sequence[Any], arguments: Arguments) -> fx.GraphModule:
    """The captured graph with its parameters and numbers as attributes; it returns the tuple of all outputs.

    Raises:
        CaptureError: It reads a size of a tensor that it does not have, or calls a subgraph.
    """
    graph, constants, values = fx.Graph(), nn.Module(), dict[fx.Node, Any]()
    placeholders = list(zip(arguments._placeholders, examples, strict=True))
    for index in arguments.inputs:
        node = placeholders[index][0]
        values[node] = graph.placeholder(node.name)
    for index, (node, value) in enumerate(placeholders):
        if index not in arguments.inputs and isinstance(value, Tensor):
            constants.register_buffer(node.name, value.detach())
            values[node] = graph.get_attr(f"{CONSTANTS}.{node.name}")
    for node, value in placeholders:
        if node not in values:
            values[node] = _size(graph, node, value, values) if node.users else None
    for node in graph_module.graph.nodes:
        if node.op in ("call_function", "call_method"):
            made = graph.node_copy(node, values.__getitem__)
            made.meta = {"nn_module_stack": _module_stack(node)}
            made.stack_trace = users_line(node.stack_trace)
            values[node] = made
        elif node.op in ("get_attr", "call_module"):
            raise CaptureError(f"the compiled function has control flow on values, or a constant: {node.format_node()}")
        elif node.op == "output":
            graph.output(fx.map_arg(node.args[0], values.__getitem__))
    return on_live_model(nn.Module(), graph, constants)


def _size(graph: fx.Graph, node: fx.Node, value: Any, values: dict[fx.Node, Any]) -> fx.Node:
    """A size that varies, read off its tensor."""
    source = _source(node)
    if isinstance(source, TensorPropertySource) and source.prop is TensorProperty.SIZE:
        for other, made in values.items():
            if _source(other) == source.base:
                return graph.call_method("size", (made, source.idx))
    raise CaptureError(
        f"the argument {getattr(source, 'name', node.name)!r} is a number that varies ({value}), and no size of a "
        "tensor that the compiled function computes with: make it a constant by torch.compile(..., dynamic=False)"
    )


def _module_stack(node: fx.Node) -> dict[str, tuple[str, type]]:
    """The module stack in the form in which symbolic tracing records it."""
    stack = {}
    for key, (path, cls) in (node.meta.get("nn_module_stack") or {}).items():
        # "L['self'].layer1.0": below the module, or the function's variable, that was compiled.
        below = re.sub(r"^[LG]\[[^\]]*\]", "", re.sub(r"@\d+", "", str(path))).lstrip(".")
        stack[str(key)] = (f"{MODEL}.{below}".rstrip("."), cls)
    return stack
