"""Why a name of the model is not in its graph."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from torch import fx, nn

from fxlrp.arguments import similar
from fxlrp.parameters import reads_of
from fxlrp.program import Program, annotation, input_name
from fxlrp.provenance import MODEL, module_stack

_NO_OPERATION = "the module at this path has no operation in the graph: it does nothing, or the output does not need it"
_NOT_CALLED = "the module at this path is not called: another module reads its parameters"
_PARAMETER = "this is a buffer, or a parameter that the output does not need"
_READ = "this is a parameter, not a value that the model computes"


class Names(NamedTuple):
    """Names in a model that are not those of nodes of its graph.

    Args:
        absent: The names that no node has, with the reasons.
        others: The names of inputs and the paths of modules, with the node whose value each means.
    """

    absent: Mapping[str, str]
    others: Mapping[str, str]


def absences(root: nn.Module, nodes: Iterable[fx.Node], removed: Mapping[str, str]) -> dict[str, str]:
    """Return the names in a model that no node has, with the reasons.

    Args:
        root: The root of a captured graph, which contains the model.
        nodes: The nodes of the graph.
        removed: The modules whose operations passes have removed, with the reasons.
    """
    model = root.get_submodule(MODEL)
    nodes = list(nodes)
    present = {path for node in nodes for path, _ in module_stack(node)}
    parameters = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    sources = {source for node in nodes for source in (node, *node.all_input_nodes)}
    read = {str(source.target) for source in sources if source.op == "get_attr"}
    modules = {
        path: _NOT_CALLED if _is_read(path, module, read) else _NO_OPERATION
        for path, module in model.named_modules()
        if path and path not in present
    }
    return {**dict.fromkeys(parameters, _PARAMETER), **modules, **removed}


def _is_read(path: str, module: nn.Module, read: Collection[str]) -> bool:
    """Whether the graph reads a parameter of a module itself."""
    return any(f"{MODEL}.{path}.{name}" in read for name, _ in module.named_parameters(recurse=False))


def why_absent(program: Program, name: str) -> str:
    """Return why no node with relevance belongs to ``name``."""
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    reason = absences(program.graph_module, nodes, program.facts.removed).get(name)
    if reason is not None:
        return _READ if reason == _PARAMETER and reads_of(program, name) else reason
    model = program.graph_module.get_submodule(MODEL)
    paths = [path for path, _ in model.named_modules() if path]
    if name in paths:
        return "the module at this path returns no value with relevance"
    # Only names that can be used instead.
    placeholders = program.graph.find_nodes(op="placeholder")
    inputs = [input_name(node) for node in placeholders if node in program.facts.dependent]
    parameters = [path for path, _ in model.named_parameters()]
    with_relevance = [node.name for node in nodes if annotation(node) is not None]
    known = [*inputs, *paths, *parameters, *with_relevance]
    return f"no node and no module has this name{similar(name, known)}"
