"""A captured graph on the live model, which reads the user's parameters and not copies of them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, fx, nn

from fxlrp.capture.escaped_paths import ESCAPED, EscapedPaths, spelled
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


def move_constants(graph_module: fx.GraphModule, move: Callable[[Tensor], Tensor]) -> None:
    """Move or cast the tensors of a program that are not the model's."""
    for name, value in graph_module.named_buffers(recurse=False):
        setattr(graph_module, name, move(value))
    for name, child in graph_module.named_children():
        if name not in (MODEL, ESCAPED):
            child._apply(move)


def _referring(root: nn.Module, graph: fx.Graph, name: str) -> fx.GraphModule:
    graph_module = fx.GraphModule(root, graph, class_name=name)
    # GraphModule copies references to parameters. Refer to the model itself, to follow replaced parameters.
    for path, child in root.named_children():
        if path in (MODEL, ESCAPED):
            graph_module.add_module(path, child)
    return graph_module
