"""Name nodes after their modules, so that the table and the generated code resemble the model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from torch import fx
from torch.fx.graph import _Namespace

from fxlrp.operation import Operation
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program, inputs_among
from fxlrp.provenance import MODEL, module_calls


@compiler_pass(needs=["canonical"], provides=["named"])
def name_nodes(program: Program) -> int:
    """Name the operation of a module after the module, and parameters after their path; return how many.

    If a call of a module has several operations, the name of the operation follows, and the name of the module means
    its output. The second call of a module gets a number, and in the root the first call, too: a name that is the path
    of a module has the value that the module returns.
    """
    operations: dict[str, set[str]] = defaultdict(set)
    of_calls: dict[str, Counter[str]] = defaultdict(Counter)
    calls: dict[fx.Node, tuple[Operation, str]] = {}
    for node in program.graph.nodes:
        operation = program.vocabulary.operation(node)
        if operation is not None:
            key, path = _innermost(node)
            calls[node] = operation, path
            operations[path].add(operation.name)
            of_calls[path][key] += 1
    parents = {path.rpartition(".")[0] for path in operations}
    wanted: dict[fx.Node, str] = {}
    own: dict[fx.Node, str] = {}
    for node in program.graph.nodes:
        operation, path = calls.get(node, (None, ""))
        if node.op == "get_attr":
            name = str(node.target).removeprefix(f"{MODEL}.")
        elif operation is not None and path:
            is_one = len(operations[path]) == 1 and max(of_calls[path].values()) == 1
            whole = is_one and path not in parents
            name = path if whole else f"{path}.{operation.name}"
            if whole and len(of_calls[path]) == 1:
                own[node] = path
            elif whole and "." not in path:
                name = f"{path}.0"
        else:
            continue
        wanted[node] = name.replace(".", "_")
    paths = [path for path, _ in program.graph_module.get_submodule(MODEL).named_children()]
    _rename(program.graph, wanted, own, paths)
    return len(wanted)


def _innermost(node: fx.Node) -> tuple[str, str]:
    """The call of the innermost module that created the node, and the path of this module."""
    calls = module_calls(node)
    return (calls[-1].key, calls[-1].path) if calls else ("", "")


def _rename(graph: fx.Graph, wanted: Mapping[fx.Node, str], own: Mapping[fx.Node, str], paths: Iterable[str]) -> None:
    """Rename the nodes such that no name is blocked by the former name of another node.

    Args:
        graph: The graph.
        wanted: The names that nodes should have.
        own: The nodes whose value a module returns, with the path of the module.
        paths: The paths of the modules in the root, which no other node has as its name.
    """
    names = graph._graph_namespace = _Namespace()
    for node in inputs_among(list(graph.nodes)):
        node.name = names.create_name(node.name, node)
    reserved = {path: names.create_name(path, None) for path in paths}
    for node in graph.nodes:
        name = reserved.get(own.get(node, ""))
        if name is None:
            name = names.create_name(wanted.get(node, node.name), node)
        else:
            names.associate_name_with_obj(name, node)
        node.name = name
