"""The front end of ``torch.compile`` backends: the graph that TorchDynamo has captured.

It calls torch functions, as symbolic tracing does, but takes everything as an input: tensors, parameters, sizes and
other numbers. Here all but the data become attributes again, which the passes know as constants.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dynamo.source import is_from_unspecialized_param_buffer_source

from fxlrp.capture.export import users_line
from fxlrp.capture.live import CONSTANTS, on_live_model
from fxlrp.errors import CaptureError
from fxlrp.provenance import MODEL


@dataclass(frozen=True)
class Argument:
    """One of the arguments that TorchDynamo calls a graph with.

    Args:
        node: Its placeholder.
        example: What it was when the graph was captured.
        is_data: Whether it is a tensor that is no parameter or buffer.
        is_wrapped: Whether it is a number that TorchDynamo has wrapped as a tensor, and reads by ``item``.
    """

    node: fx.Node
    example: Any
    is_data: bool
    is_wrapped: bool

    @property
    def path(self) -> str:
        """Where a captured graph has it, below its root, if it is no data."""
        return f"{CONSTANTS}.{self.node.name}"

    def unwrapped(self, value: Any) -> Any:
        """What a captured graph takes for ``value``."""
        return value.item() if self.is_wrapped else value


def arguments(graph_module: fx.GraphModule, examples: Sequence[Any]) -> tuple[Argument, ...]:
    """The arguments of a graph that TorchDynamo has captured with ``examples``."""
    placeholders = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    return tuple(_argument(node, example) for node, example in zip(placeholders, examples, strict=True))


def _argument(node: fx.Node, example: Any) -> Argument:
    source = getattr(node.meta.get("grapharg"), "source", None)
    is_parameter = isinstance(example, nn.Parameter) or (
        source is not None and is_from_unspecialized_param_buffer_source(source)
    )
    is_wrapped = bool(node.users) and all(user.op == "call_method" and user.target == "item" for user in node.users)
    return Argument(node, example, isinstance(example, Tensor) and not is_parameter and not is_wrapped, is_wrapped)


def capture(graph_module: fx.GraphModule, arguments: Sequence[Argument]) -> fx.GraphModule:
    """The captured graph on its data alone; it returns the tuple of all outputs.

    Raises:
        CaptureError: It calls a subgraph.
    """
    graph, constants, values = fx.Graph(), nn.Module(), dict[fx.Node, fx.Node]()
    for argument in arguments:
        if argument.is_data:
            values[argument.node] = graph.placeholder(argument.node.name)
    for argument in arguments:
        if not argument.is_data:
            _keep(constants, argument)
            values[argument.node] = graph.get_attr(argument.path)
    wrapped = {argument.node for argument in arguments if argument.is_wrapped}
    for node in graph_module.graph.nodes:
        if node.op in ("get_attr", "call_module"):
            raise CaptureError(f"the compiled function calls a subgraph, as control flow on values does: {node.target}")
        if node.op == "output":
            graph.output(fx.map_arg(node.args[0], values.__getitem__))
        elif node.op != "placeholder":
            values[node] = values[node.args[0]] if node.args[0] in wrapped else _copy(graph, node, values)
    return on_live_model(nn.Module(), graph, constants)


def _keep(constants: nn.Module, argument: Argument) -> None:
    name, example = argument.node.name, argument.example
    if isinstance(example, torch.SymInt):
        # Its hint stands for a size where shapes are inferred; nothing is decided by it.
        setattr(constants, name, example.node.hint)
    elif isinstance(example, Tensor) and not argument.is_wrapped:
        constants.register_buffer(name, example.detach())
    else:
        setattr(constants, name, argument.unwrapped(example))


def _copy(graph: fx.Graph, node: fx.Node, values: dict[fx.Node, fx.Node]) -> fx.Node:
    made = graph.node_copy(node, values.__getitem__)
    made.meta = {"nn_module_stack": _module_stack(node)}
    made.stack_trace = users_line(node.stack_trace)
    return made


def _module_stack(node: fx.Node) -> dict[str, tuple[str, type]]:
    """The module stack in the form in which symbolic tracing records it."""
    stack = {}
    for key, (path, cls) in (node.meta.get("nn_module_stack") or {}).items():
        # "L['self'].layer1.0": below the module, or the function's variable, that was compiled.
        below = re.sub(r"^[LG]\[[^\]]*\]", "", re.sub(r"@\d+", "", str(path))).lstrip(".")
        stack[str(key)] = (f"{MODEL}.{below}".rstrip("."), cls)
    return stack
