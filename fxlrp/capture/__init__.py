"""Front ends: from a model to its forward graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import fx, nn

from fxlrp.capture import export, symbolic
from fxlrp.capture.export import DynamicShapes
from fxlrp.capture.outputs import EVERY_OUTPUT, Output, Selected, restored
from fxlrp.capture.shape_guards import ShapeGuards
from fxlrp.inputs import Inputs
from fxlrp.operation import Family
from fxlrp.vocabulary.lookup import Vocabulary

__all__ = [
    "EVERY_OUTPUT",
    "FRONT_ENDS",
    "Captured",
    "DynamicShapes",
    "FrontEnd",
    "Output",
    "Selected",
    "ShapeGuards",
    "capture",
    "restored",
]

FrontEnd: TypeAlias = Literal["symbolic", "export"]
FRONT_ENDS: tuple[FrontEnd, ...] = ("symbolic", "export")


class Captured(NamedTuple):
    """A forward graph, and the inputs for which it is valid; None for all."""

    graph_module: fx.GraphModule
    guards: ShapeGuards | None


def capture(
    model: nn.Module,
    inputs: Inputs,
    vocabulary: Vocabulary,
    *,
    front_end: FrontEnd = "symbolic",
    output: Selected = None,
    dynamic_shapes: Mapping[str, Any] | None = None,
    constants: Collection[str] = (),
) -> Captured:
    """Capture the forward graph of ``model`` with one of the front ends.

    Raises:
        CaptureError: The front end cannot follow the model.
        InputError: ``dynamic_shapes`` names an input that does not exist.
    """
    inputs.check_sizes(dynamic_shapes or {})
    if front_end == "export":
        return Captured(*export.capture(model, inputs, vocabulary, output, dynamic_shapes, constants))
    return Captured(symbolic.capture(model, inputs, vocabulary.functions(Family.CUSTOM), output), None)
