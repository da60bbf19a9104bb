"""The module that the front ends capture: it calls the model and selects the output to explain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from fxlrp.inputs import Inputs
from fxlrp.program import INPUT_NAME, inputs_among


class Holder(nn.Module):
    """Contains the model under a name, so that its own call, including hooks, is captured like that of any module.

    Its forward takes only tensors, whatever the containers are in which the model takes them.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, select: Callable[[Any], Any]) -> None:
        """Hold ``model``, which stays in its mode.

        Args:
            model: The model, under the name of :data:`fxlrp.provenance.MODEL`.
            inputs: Its inputs.
            select: Selects from its outputs.
        """
        super().__init__()
        self.training = False
        self.model = model
        self._inputs, self._select = inputs, select

    def forward(self, *inputs: Any) -> Any:
        """Call the model with the values of its inputs."""
        return self._select(self._inputs.call(self.model, inputs))


def name_inputs(graph: fx.Graph, inputs: Inputs) -> None:
    """Note the names of the inputs at their placeholders."""
    for node, name in zip(inputs_among(list(graph.nodes)), inputs.names, strict=True):
        node.meta[INPUT_NAME] = name
