"""A captured graph on the live model, which reads the user's parameters and not copies of them."""

from __future__ import annotations

from torch import fx, nn

from fxlrp.errors import CaptureError
from fxlrp.provenance import MODEL

# The child of the root that contains the tensors that are not parameters of the model.
CONSTANTS = "constants"


class _Root(nn.Module):
    def __init__(self, model: nn.Module, constants: nn.Module) -> None:
        super().__init__()
        self.add_module(MODEL, model)
        self.add_module(CONSTANTS, constants)


def on_live_model(model: nn.Module, graph: fx.Graph, constants: nn.Module) -> fx.GraphModule:
    """Return ``graph`` as a module whose root contains ``model`` and ``constants``.

    Raises:
        CaptureError: A path in the model is not a valid Python name.
    """
    try:
        graph_module = fx.GraphModule(_Root(model, constants), graph, class_name=type(model).__name__)
    except SyntaxError as error:
        raise CaptureError(f"a path in {type(model).__name__} is not a valid Python name: {error}") from error
    # GraphModule copies references to parameters. Refer to the model itself, to follow replaced parameters.
    graph_module.add_module(MODEL, model)
    return graph_module
