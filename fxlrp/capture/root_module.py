"""A captured graph on the live model, which reads the user's parameters and not copies of them."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, fx, nn

from fxlrp.capture.escaped_paths import ESCAPED, EscapedPaths, spelled
from fxlrp.generated_code import GraphInTheMaking
from fxlrp.provenance import MODEL

# The child of the root that contains the tensors that are not parameters of the model.
CONSTANTS = "constants"


class _Root(nn.Module):
    def __init__(self, model: nn.Module, constants: nn.Module) -> None:
        super().__init__()
        self.add_module(MODEL, model)
        self.add_module(CONSTANTS, constants)


def on_live_model(model: nn.Module, graph: fx.Graph, constants: nn.Module) -> fx.GraphModule:
    """Return ``graph`` as a module whose root contains ``model`` and ``constants``."""
    root = _Root(model, constants)
    for node in graph.nodes:
        if node.op == "get_attr":
            node.target = spelled(str(node.target))
            if node.target.startswith(f"{ESCAPED}."):
                root.add_module(ESCAPED, EscapedPaths(model))
    return _referring(root, graph, type(model).__name__)


def sharing_tensors(graph_module: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    """Return another graph on the model and the constants of ``graph_module``."""
    return _referring(graph_module, graph, type(graph_module).__name__)


def on_other_model(graph_module: fx.GraphModule, model: nn.Module) -> fx.GraphModule:
    """Return the same program, with its code, on another copy of the model, with constants of its own."""
    other = _shell(graph_module)
    assert isinstance(other, fx.GraphModule)
    for path in list(other._modules):
        other._modules[path] = model if path == MODEL else _constants(other._modules[path], model)
    return other


def _constants(child: nn.Module | None, model: nn.Module) -> nn.Module | None:
    """A child of the root that is not the model, with the same tensors."""
    if child is None or isinstance(child, EscapedPaths):
        return child and EscapedPaths(model)
    other = _shell(child)
    other._modules.update({name: _constants(each, model) for name, each in child._modules.items()})
    return other


def _shell(module: nn.Module) -> nn.Module:
    """A module of the same class with the same attributes, to which others can be given."""
    other: nn.Module = object.__new__(type(module))
    vars(other).update(
        {name: copy.copy(value) if isinstance(value, dict | set) else value for name, value in vars(module).items()}
    )
    return other


def move_constants(graph_module: fx.GraphModule, move: Callable[[Tensor], Tensor]) -> None:
    """Move or cast the tensors of a program that are not the model's."""
    for name, value in graph_module.named_buffers(recurse=False):
        setattr(graph_module, name, move(value))
    for name, child in graph_module.named_children():
        if name not in (MODEL, ESCAPED):
            child._apply(move)


def _referring(root: nn.Module, graph: fx.Graph, name: str) -> fx.GraphModule:
    graph_module = GraphInTheMaking(root, _constants_of(graph), class_name=name)
    # GraphModule copies references to parameters. Refer to the model itself, to follow replaced parameters.
    for path, child in root.named_children():
        if path in (MODEL, ESCAPED):
            graph_module.add_module(path, child)
    graph_module.graph = graph
    return graph_module


def _constants_of(graph: fx.Graph) -> fx.Graph:
    """A graph that reads the constants of ``graph`` alone, so that a module of it refers to no more."""
    constants = fx.Graph()
    for node in graph.find_nodes(op="get_attr"):
        if node.target.partition(".")[0] not in (MODEL, ESCAPED):
            constants.get_attr(node.target)
    return constants
