"""Find the selectors that name an operation, and a module as well."""

from __future__ import annotations

from fxlrp.program import Program, annotation
from fxlrp.provenance import module_stack


def ambiguous(program: Program) -> list[str]:
    """Say of every user-defined pair for an operation, whose name a module has too, that it is for all modules.

    A pair that selects nothing outside of that module is not among them.

    Args:
        program: The annotated program.
    """
    operations = program.vocabulary.operations
    pairs = [pair for pair in program.options.preset.pairs if pair.by_user]
    names = dict.fromkeys(pair.selector for pair in pairs if isinstance(pair.selector, str))
    return [message for name in names if name in operations and (message := _ambiguity(program, name))]


def _ambiguity(program: Program, name: str) -> str:
    inside, outside = [], []
    for node in program.graph.nodes:
        operation = program.vocabulary.operation(node)
        if any(path == name for path, _ in module_stack(node)):
            inside.append(node)
        elif operation is not None and operation.name == name and annotation(node) is not None:
            outside.append(node)
    if not (inside and outside):
        return ""
    return (
        f"the pair for {name!r} selects every operation {name}, such as the node {outside[0].name!r}, and not the "
        f"module {name!r} alone: write '[{name[0]}]{name[1:]}' for the module. A predicate on the node selects all of "
        "them without this warning"
    )
