"""A captured graph on the live model: it reads the user's parameters, not copies of them."""

from __future__ import annotations

from torch import fx, nn

from fxlrp.errors import CaptureError
from fxlrp.provenance import MODEL

# Where the root of a program keeps the tensors that are no parameters of the model.
CONSTANTS = "constants"


class _Root(nn.Module):
    def __init__(self, model: nn.Module, constants: nn.Module) -> None:
        super().__init__()
        self.add_module(MODEL, model)
        self.add_module(CONSTANTS, constants)


def on_live_model(model: nn.Module, graph: fx.Graph, constants: nn.Module) -> fx.GraphModule:
    """``graph`` as a module whose root holds ``model`` and ``constants``.

    Raises:
        CaptureError: A path of the model cannot be written in Python.
    """
    try:
        graph_module = fx.GraphModule(_Root(model, constants), graph, class_name=type(model).__name__)
    except SyntaxError as error:
        raise CaptureError(f"a path of {type(model).__name__} is no Python name: {error}") from error
    # GraphModule copies references to the parameters it finds; the model itself follows replaced ones too.
    graph_module.add_module(MODEL, model)
    return graph_module
