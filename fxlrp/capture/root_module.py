"""A captured graph on the live model, which reads the user's parameters and not copies of them."""

from __future__ import annotations

from torch import fx, nn

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
    graph_module = fx.GraphModule(root, graph, class_name=type(model).__name__)
    # GraphModule copies references to parameters. Refer to the model itself, to follow replaced parameters.
    for name, child in root.named_children():
        if name != CONSTANTS:
            graph_module.add_module(name, child)
    return graph_module
