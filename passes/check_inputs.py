"""Check that relevance can reach the inputs that are to be explained, and say of every input what becomes of it."""

from __future__ import annotations

from torch import fx

from fxlrp.errors import LostInputError
from fxlrp.passes.base import compiler_pass
from fxlrp.passes.infer_dependence import described, lost_message
from fxlrp.program import REASON, Program, input_name, inputs_among


@compiler_pass(needs=["dependence"], before=["annotate"])
def check_inputs(program: Program) -> int:
    """Record why inputs receive no relevance, or not on every way; return how many inputs there are.

    Raises:
        LostInputError: An input reaches the output only through operations that cannot carry relevance, and is not
            declared a constant.
    """
    facts = program.facts
    if facts.lost and not program.options.question.at:
        raise LostInputError(lost_message(program))
    inputs = inputs_among(list(program.graph.nodes))
    for node in inputs:
        node.meta[REASON] = _reason(program, node)
    return len(inputs)


def _reason(program: Program, node: fx.Node) -> str:
    facts = program.facts
    lost = facts.lost.get(node) or facts.partly_lost.get(node)
    if input_name(node) in program.options.constants:
        return "declared a constant"
    if lost is not None:
        return f"{'only' if node in facts.lost else 'in part'} through the {described(program, lost)}: carries none"
    if not node.users:
        return "not used"
    if node in facts.tokens or node in facts.dependent:
        return ""
    return "integers that only select or scale"
