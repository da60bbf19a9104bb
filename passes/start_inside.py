"""Let relevance start at a value inside the model, such as the logits before a final softmax."""

from __future__ import annotations

from torch import fx

from fxlrp.absence import why_absent
from fxlrp.capture.outputs import start_inside as asked_start
from fxlrp.errors import InputError
from fxlrp.passes.base import compiler_pass
from fxlrp.passes.remove_dead_code import remove_dead_code
from fxlrp.places import Places
from fxlrp.program import Program


@compiler_pass(needs=["functional", "canonical", "named"], before=["infer_values", "fold_batch_norm", "annotate"])
def start_inside(program: Program) -> int:
    """Return the value that ``output=`` names, and remove what follows it; return whether it is inside the model.

    Raises:
        InputError: The value does not exist, or the module returns several.
    """
    asked = asked_start(program.graph)
    if asked is None:
        return 0
    places = Places(program)
    if not places.meant(asked.name):
        start = "" if asked.no_output.startswith("output=") else f"output={asked.name!r}: "
        raise InputError(f"{start}{asked.no_output}. Inside the model, {why_absent(program, asked.name)}")
    value = places.value("output", asked.name, lambda node: _is_tensor(program, node))
    if value.op != "call_function":
        raise InputError(f"output={asked.name!r} is not computed by the model: it is an input or a parameter")
    program.graph.output_node().args = (value,)
    remove_dead_code.run(program)
    return 1


def _is_tensor(program: Program, node: fx.Node) -> bool:
    operation = program.vocabulary.operation(node)
    return operation is not None and not operation.is_size
