"""Make an exported graph functional, without tracing it again where that is possible.

``torch.export`` records in-place operations and views as they are. ``run_decompositions`` makes them functional, but
traces the whole model a second time, which takes longer than the export itself. Most graphs contain no in-place
operation, or only some that change a value as a whole, such as ``ReLU(inplace=True)``, or a part of it, such as
``x[:, 1:] = 0``: these are replaced by their out-of-place forms. If other values share the changed memory and are read
afterwards, or part of the model is in another precision or in ``torch.vmap``, the graph is traced again.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch.export import ExportedProgram

from fxlrp.capture.aten import ASSERTIONS, name_of, spell
from fxlrp.capture.region_modules import regions_of, restore_modules
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
    if _autocast_is_enabled(nodes) or not _Changes(exported, vocabulary).make_functional():
        return _traced_again(exported)
    if not all(_is_plain(node, vocabulary) for node in nodes):
        return _traced_again(exported)
    return exported


def _traced_again(exported: ExportedProgram) -> ExportedProgram:
    """The program as PyTorch makes it functional; this decomposes nothing that need not be."""
    regions = regions_of(exported.graph_module)
    functional: ExportedProgram = exported.run_decompositions({})
    restore_modules(functional.graph, regions)
    return functional


def _autocast_is_enabled(nodes: Iterable[fx.Node]) -> bool:
    """Whether the operations compute in another type than they state, on any of the devices."""
    values = (node.meta.get("val") for node in nodes)
    devices = {value.device.type for value in values if isinstance(value, Tensor)}
    return any(torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device) for device in devices)


def _is_plain(node: fx.Node, vocabulary: Vocabulary) -> bool:
    """Whether a node can be read as it is: no region, branch or vmap, and no unknown operation that contains others."""
    if node.op != "call_function":
        return node.op != "get_attr"
    target = node.target
    if not isinstance(target, OpOverload):
        of_functorch = getattr(target, "__module__", "") == "torch._functorch.predispatch"
        return not (of_functorch or isinstance(target, torch._ops.HigherOrderOperator))
    if name_of(target) in ASSERTIONS:
        return True
    is_composite = target.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)
    return not is_composite or spell(node, vocabulary).function is not target


# How a changed view is written into the value that it is a view of.
_WRITTEN_BACK: Mapping[Any, OpOverload] = {
    torch.ops.aten.slice.Tensor: torch.ops.aten.slice_scatter.default,
    torch.ops.aten.select.int: torch.ops.aten.select_scatter.default,
}


class _Changes:
    """Replaces in-place operations, one after the other. The program computes the same after each."""

    def __init__(self, exported: ExportedProgram, vocabulary: Vocabulary) -> None:
        self._exported, self._vocabulary = exported, vocabulary
        # New nodes only read values that earlier nodes read as well, so they have no position.
        self._position = {node: index for index, node in enumerate(exported.graph.nodes)}
        # The nodes that may share memory, by each of them.
        self._sharing: dict[fx.Node, list[fx.Node]] = {}

    def make_functional(self) -> bool:
        """Replace all in-place operations; return whether that was possible."""
        for node in self._position:
            if not _changes_memory(node):
                self._join(node, _may_share(node, self._vocabulary))
            elif not self._replace(node):
                return False
        return True

    def _replace(self, node: fx.Node) -> bool:
        changed, function = node.args[0] if node.args else None, _out_of_place_form(node)
        if not isinstance(changed, fx.Node) or function is None:
            return False
        # The changed value, and the values that it is a part of.
        whole = [changed]
        while whole[-1].target in _WRITTEN_BACK:
            whole.append(whole[-1].args[0])  # type: ignore[arg-type]
        aliases = self._sharing[changed]
        is_read = any(self._later(alias, node) for alias in aliases if alias not in whole)
        if is_read or any(alias.op == "placeholder" for alias in aliases):
            return False
        node.target = function
        self._read_instead(node, changed, node)
        self._sharing[node] = [node]
        self._write_back(node, whole)
        return True

    def _write_back(self, node: fx.Node, whole: list[fx.Node]) -> None:
        """Replace the values that contain the changed one, as far as they are read after ``node``."""
        new = node
        for part, base in itertools.pairwise(whole):
            if not any(self._later(each, node) for each in whole[whole.index(base) :]):
                return
            with self._exported.graph.inserting_after(new):
                scatter = _WRITTEN_BACK[part.target]
                made = self._exported.graph.call_function(scatter, (base, new, *part.args[1:]), dict(part.kwargs))
            made.meta = {**node.meta, "val": base.meta["val"]}
            self._read_instead(made, base, node)
            # They are one memory in the model.
            self._join(made, [new])
            new = made

    def _later(self, value: fx.Node, node: fx.Node) -> list[fx.Node]:
        """The nodes after ``node`` that read a value."""
        return [user for user in value.users if self._position.get(user, -1) > self._position[node]]

    def _read_instead(self, new: fx.Node, old: fx.Node, node: fx.Node) -> None:
        for user in self._later(old, node):
            user.replace_input_with(old, new)
            if user.op == "output":
                self._exported.graph_signature.replace_all_uses(old.name, new.name)

    def _join(self, node: fx.Node, sources: Iterable[fx.Node]) -> None:
        """Note that a node may share memory with ``sources``."""
        groups = {id(group): group for group in (self._sharing[source] for source in sources)}
        largest, *others = sorted(groups.values(), key=len, reverse=True) or [[]]
        largest.append(node)
        self._sharing[node] = largest
        for group in others:
            largest.extend(group)
            self._sharing.update(dict.fromkeys(group, largest))


def _changes_memory(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _may_share(node: fx.Node, vocabulary: Vocabulary) -> list[fx.Node]:
    """The values whose memory a result may share."""
    source = node.args[0] if node.target is operator.getitem else None
    if isinstance(source, fx.Node):
        # The results of an operation that allocates have memory of their own, unlike the elements of a list.
        several = isinstance(source.target, OpOverload) and len(source.target._schema.returns) > 1
        return [] if several and not _may_share(source, vocabulary) else [source]
    if not isinstance(node.target, OpOverload):
        return []
    spelling = vocabulary.spelling(spell(node, vocabulary).function)
    states_it = any(result.alias_info is not None for result in node.target._schema.returns)
    allocates = spelling is not None and spelling.operation.allocates and not states_it
    return [] if allocates else node.all_input_nodes


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
