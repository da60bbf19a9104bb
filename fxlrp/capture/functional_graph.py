"""Make an exported graph functional, without tracing it again where that is possible.

``torch.export`` records in-place operations and views as they are. ``run_decompositions`` makes them functional, but
traces the whole model a second time, which takes longer than the export itself. Most graphs contain no in-place
operation, or only some whose result is all that is read afterwards, such as ``ReLU(inplace=True)``: these are replaced
by their out-of-place forms. All other graphs are traced again.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable

import torch
from torch import Tensor, fx
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch.export import ExportedProgram

from fxlrp.capture.aten import ASSERTIONS, name_of, spell
from fxlrp.vocabulary.lookup import Vocabulary


def open_regions(graph_module: fx.GraphModule) -> None:
    """Replace regions that only change the mode of autograd, or turn autocast off, by their operations.

    Args:
        graph_module: An exported graph, which is changed.
    """
    graph = graph_module.graph
    for node in list(graph.nodes):
        position = _position_of_operations(node)
        if position is None:
            continue
        attribute, *given = node.args[position:]
        region = getattr(graph_module, attribute.target)
        open_regions(region)
        values = dict(zip(region.graph.find_nodes(op="placeholder"), given, strict=True))
        with graph.inserting_before(node):
            for inner in region.graph.nodes:
                if inner.op not in ("placeholder", "output"):
                    values[inner] = graph.node_copy(inner, values.__getitem__)
        (results,) = fx.map_arg(region.graph.output_node().args, values.__getitem__)
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)
        graph.erase_node(attribute)


def _position_of_operations(node: fx.Node) -> int | None:
    """Where the arguments of a region contain its operations; None if it is no region, or matters for their results."""
    if node.target is torch.ops.higher_order.wrap_with_set_grad_enabled:
        return 1
    if node.target is torch.ops.higher_order.wrap_with_autocast:
        device, _, enabled, *_ = node.args
        return None if enabled or torch.is_autocast_enabled(str(device)) else 4
    return None


def functional(exported: ExportedProgram, vocabulary: Vocabulary) -> ExportedProgram:
    """Return an exported program without in-place operations, and without regions of another precision.

    Args:
        exported: The program, whose graph may be changed.
        vocabulary: The canonical operations.
    """
    nodes = list(exported.graph.nodes)
    replaced = None if _autocast_is_enabled(nodes) else _out_of_place(nodes, vocabulary)
    for node, function in (replaced or {}).items():
        node.target = function
    if replaced is None or not all(_is_plain(node, vocabulary) for node in nodes):
        # This decomposes nothing that need not be.
        return _traced_again(exported)
    return exported


def _traced_again(exported: ExportedProgram) -> ExportedProgram:
    functional: ExportedProgram = exported.run_decompositions({})
    return functional


def _autocast_is_enabled(nodes: Iterable[fx.Node]) -> bool:
    """Whether the operations compute in another type than they state, on any of the devices."""
    values = (node.meta.get("val") for node in nodes)
    devices = {value.device.type for value in values if isinstance(value, Tensor)}
    return any(torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device) for device in devices)


def _is_plain(node: fx.Node, vocabulary: Vocabulary) -> bool:
    """Whether a node can be read as it is: no region or branch, and no unknown operation that consists of others."""
    if node.op != "call_function":
        return node.op != "get_attr"
    target = node.target
    if not isinstance(target, OpOverload):
        return not isinstance(target, torch._ops.HigherOrderOperator)
    if name_of(target) in ASSERTIONS:
        return True
    is_composite = target.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)
    return not is_composite or spell(node, vocabulary).function is not target


def _out_of_place(nodes: list[fx.Node], vocabulary: Vocabulary) -> dict[fx.Node, OpOverload] | None:
    """The out-of-place form of every in-place operation; None if one of them changes a value that is read later."""
    position = {node: index for index, node in enumerate(nodes)}
    # The nodes that may share memory, by each of them.
    sharing: dict[fx.Node, list[fx.Node]] = {}
    found: dict[fx.Node, OpOverload] = {}
    for node in nodes:
        if not _changes_memory(node):
            _join(sharing, node, _may_share(node, vocabulary))
            continue
        changed, function = node.args[0] if node.args else None, _out_of_place_form(node)
        if not isinstance(changed, fx.Node) or function is None:
            return None
        aliases = sharing[changed]
        is_read = any(position[user] > position[node] for alias in aliases for user in alias.users)
        if is_read or any(alias.op == "placeholder" for alias in aliases):
            return None
        found[node] = function
        sharing[node] = [node]
    return found


def _join(sharing: dict[fx.Node, list[fx.Node]], node: fx.Node, sources: Iterable[fx.Node]) -> None:
    """Note that a node may share memory with ``sources``."""
    groups = {id(group): group for group in (sharing[source] for source in sources)}
    largest, *others = sorted(groups.values(), key=len, reverse=True) or [[]]
    largest.append(node)
    sharing[node] = largest
    for group in others:
        largest.extend(group)
        sharing.update(dict.fromkeys(group, largest))


def _changes_memory(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _may_share(node: fx.Node, vocabulary: Vocabulary) -> list[fx.Node]:
    """The values whose memory a result may share."""
    if isinstance(node.target, OpOverload):
        spelling = vocabulary.spelling(spell(node, vocabulary).function)
        states_it = any(result.alias_info is not None for result in node.target._schema.returns)
        if not states_it and spelling is not None and spelling.operation.allocates:
            return []
    elif node.target is not operator.getitem:
        return []
    return node.all_input_nodes


def _out_of_place_form(node: fx.Node) -> OpOverload | None:
    """The overload that computes the same in new memory; None if there is none, or if its type may differ."""
    target = node.target
    assert isinstance(target, OpOverload)
    name = name_of(target)
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    function = getattr(packet, target._overloadname, None)
    if function is None or function._schema.is_mutable or _signature(function) != _signature(target):
        return None
    # Comparisons, for example, return truth values unless they write into numbers.
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
    result = function(*args, **kwargs)
    found: OpOverload = function
    return found if isinstance(result, Tensor) and result.dtype == node.meta["val"].dtype else None


def _signature(function: OpOverload) -> list[tuple[str, str]]:
    return [(argument.name, str(argument.type)) for argument in function._schema.arguments]
