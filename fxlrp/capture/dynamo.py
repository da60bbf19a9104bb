"""The front end of ``torch.compile`` backends: the graph that TorchDynamo captured.

It calls torch functions, as symbolic tracing does, but takes everything as an input: tensors, parameters, sizes and
other numbers. This module converts all inputs except the data to attributes, which the passes treat as constants.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dynamo.source import LocalSource, is_from_unspecialized_nn_module_source

from fxlrp.capture.export import users_line
from fxlrp.capture.root_module import CONSTANTS, on_live_model
from fxlrp.errors import CaptureError
from fxlrp.provenance import MODEL


@dataclass(frozen=True)
class Argument:
    """An argument with which TorchDynamo calls a graph.

    Args:
        node: Its placeholder.
        example: Its value when the graph was captured.
        is_data: Whether it is a tensor that the caller passed, and not a parameter, attribute, global or closure.
        is_wrapped: Whether it is a number that TorchDynamo wrapped in a tensor, and reads with ``item``.
        name: The argument of the compiled function that is or contains it; empty if there is none.
    """

    node: fx.Node
    example: Any
    is_data: bool
    is_wrapped: bool
    name: str = ""

    @property
    def path(self) -> str:
        """The path of the attribute below the root of a captured graph, if it is not data."""
        return f"{CONSTANTS}.{self.node.name}"

    def unwrapped(self, value: Any) -> Any:
        """The value that a captured graph takes for ``value``."""
        return value.item() if self.is_wrapped else value


def arguments(graph_module: fx.GraphModule, examples: Sequence[Any]) -> tuple[Argument, ...]:
    """Return the arguments of a graph that TorchDynamo captured with ``examples``."""
    placeholders = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    return tuple(_argument(node, example) for node, example in zip(placeholders, examples, strict=True))


def _argument(node: fx.Node, example: Any) -> Argument:
    source = getattr(node.meta.get("grapharg"), "source", None)
    is_wrapped = bool(node.users) and all(user.op == "call_method" and user.target == "item" for user in node.users)
    is_data = isinstance(example, Tensor) and not is_wrapped and _is_handed_over(source, example)
    root = _root(source)
    return Argument(node, example, is_data, is_wrapped, root.local_name if isinstance(root, LocalSource) else "")


def _root(source: Any) -> Any:
    """The source of the outermost container."""
    while hasattr(source, "base"):
        source = source.base
    return source


def _is_handed_over(source: Any, example: Tensor) -> bool:
    """Whether the caller passed a tensor, or its container: not a module, global or closure."""
    if source is None:
        return not isinstance(example, nn.Parameter)
    root = _root(source)
    return isinstance(root, LocalSource) and root.is_input and not is_from_unspecialized_nn_module_source(source)


def returns_numbers(graph_module: fx.GraphModule) -> bool:
    """Whether a graph returns any real numbers: indices and truth values cannot be explained."""
    values: list[Any] = []
    fx.map_arg(graph_module.graph.output_node().args, lambda node: values.append(node.meta.get("example_value")))
    return any(not isinstance(value, Tensor) or value.is_floating_point() for value in values)


def capture(graph_module: fx.GraphModule, arguments: Sequence[Argument], root: nn.Module | None) -> fx.GraphModule:
    """Return the captured graph with only data as inputs; it returns the tuple of all outputs.

    Args:
        graph_module: The graph that TorchDynamo captured.
        arguments: Its arguments.
        root: The module whose forward was compiled; None for another function.

    Raises:
        CaptureError: The graph calls a subgraph.
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
            raise CaptureError(f"control flow on values is not supported: the compiled function calls {node.target}")
        _check_precision(node)
        if node.op == "output":
            graph.output(fx.map_arg(node.args[0], values.__getitem__))
        elif node.op != "placeholder":
            number = next((source for source in node.all_input_nodes if source in wrapped), None)
            values[node] = _copy(graph, node, values, root) if number is None else values[number]
    return on_live_model(nn.Module(), graph, constants)


def _check_precision(node: fx.Node) -> None:
    """Check that there is no autocast region: its operations would compute in a different precision."""
    if node.target is torch.amp.autocast_mode._enter_autocast:
        device, _, enabled, *_ = node.args
        if enabled != torch.is_autocast_enabled(str(device)):
            raise CaptureError(
                "an autocast region inside the compiled function, whose precision a graph cannot represent"
            )


def _keep(constants: nn.Module, argument: Argument) -> None:
    name, example = argument.node.name, argument.example
    if isinstance(example, torch.SymInt):
        # The hint replaces a size where shapes are inferred. No decision depends on it.
        setattr(constants, name, example.node.hint)
    elif isinstance(example, Tensor) and not argument.is_wrapped:
        constants.register_buffer(name, example.detach())
    else:
        setattr(constants, name, argument.unwrapped(example))


def _copy(graph: fx.Graph, node: fx.Node, values: dict[fx.Node, fx.Node], root: nn.Module | None) -> fx.Node:
    made = graph.node_copy(node, values.__getitem__)
    made.meta = {"nn_module_stack": _module_stack(node, root)}
    made.stack_trace = users_line(node.stack_trace)
    return made


def _module_stack(node: fx.Node, root: nn.Module | None) -> dict[str, tuple[str, type]]:
    """The module stack in the form of symbolic tracing, from the compiled module down."""
    recorded = [(re.sub(r"@\d+", "", str(path)), cls) for path, cls in node.meta.get("nn_module_stack", {}).values()]
    if root is not None:
        # "L['self'].layer1.0"
        above, stack = r"^L\[[^\]]*\]", {"": (MODEL, type(root))}
    else:
        # "L['net'].layers[1]": in a function paths begin at the outermost module.
        above, stack = re.escape(recorded[0][0]) if recorded else "", {}
    for path, cls in recorded:
        below = re.sub(above, "", path).lstrip(".")
        stack[path] = (f"{MODEL}.{below}".rstrip("."), cls)
    return stack
