"""Rewrite in-place operations as functional ones, including later uses of the changed values.

``ReLU(inplace=True)`` overwrites the pre-activation that a rule needs, and dead-code elimination would delete an
in-place call whose result is unused. After this pass every later use of a changed value reads the result of the
change, so that normalization may drop the in-place spelling.
"""

from __future__ import annotations

import bisect
import operator
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxlrp.errors import SymbolicTraceError
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program
from fxlrp.provenance import describe, provenance
from fxlrp.vocabulary import Vocabulary
from fxlrp.vocabulary.sizes import sizes_of


@compiler_pass(provides=["functional"])
def functionalize(program: Program) -> int:
    """Make later uses of a value changed in place read the changing node; return how many changes there were."""
    sizes = sizes_of(program.graph, program.vocabulary)
    values = _Values(program)
    is_mixed, changes = _is_mixed(program), 0
    changed_inputs: dict[fx.Node, None] = {}
    for node in list(program.graph.nodes):
        values.arrive_at(node)
        changed = _changed_value(node, program.vocabulary)
        if changed is None or changed in sizes:
            values.add(node, _viewed_values(node, program.vocabulary).difference(sizes))
            continue
        if any(made.op == "get_attr" for made in values.memory[changed]):
            raise SymbolicTraceError(f"the model changes a parameter or buffer in place: {describe(node)}")
        if changed in values.overlapping:
            raise SymbolicTraceError(
                f"an in-place change of {changed.name!r}, whose elements may share memory with each other, as those of "
                f"an expanded tensor do, is not supported: {describe(node)}. Use an out-of-place operation"
            )
        changed_inputs.update((made, None) for made in values.memory[changed] if made.op == "placeholder")
        for alias, user in values.used_later(changed):
            if not _writes_back(user, values.latest(user.args), alias, changed, node):
                raise SymbolicTraceError(
                    f"an in-place change of a view also changes {alias.name!r}, which is used later by "
                    f"{user.name!r}: {describe(node)}. Use an out-of-place operation"
                )
        if program.vocabulary.spelling(node.target) is None:
            _spell_out_of_place(node)
        values.change(changed, node)
        if _may_have_another_type(node, program.vocabulary, is_mixed):
            with program.graph.inserting_after(node):
                converted = program.graph.call_function(torch.Tensor.type_as, (node, changed))
            converted.meta = provenance(node)
            values.insert(converted, node)
            values.change(node, converted)
        changes += 1
    program.facts.changed_inputs = tuple(changed_inputs)
    return changes


class _Values:
    """The values of a graph at a place in it, which moves from the first node to the last.

    Every node is rewritten once, when the place arrives at it: it then reads the latest changes of its arguments.
    """

    def __init__(self, program: Program) -> None:
        nodes = list(program.graph.nodes)
        self._position = {node: index for index, node in enumerate(nodes)}
        self._users = {node: sorted(node.users, key=self._position.__getitem__) for node in nodes}
        self._place = 0
        # What changed a value, and the nodes that the graph names for a changed one: the value, and its changes.
        self._changed_by: dict[fx.Node, fx.Node] = {}
        self._names: dict[fx.Node, list[fx.Node]] = {}
        # The memory that a value may share, by the node that made it, and the values that may share it.
        self.memory: dict[fx.Node, frozenset[fx.Node]] = {}
        self._sharing: dict[fx.Node, list[fx.Node]] = {}
        # The values whose elements may share memory with each other.
        self.overlapping: set[fx.Node] = set()
        self._vocabulary = program.vocabulary

    def arrive_at(self, node: fx.Node) -> None:
        """Make a node read the latest changes."""
        self._place = self._position[node]
        if any(source in self._changed_by for source in node.all_input_nodes):
            node.args, node.kwargs = self.latest(node.args), self.latest(node.kwargs)

    def insert(self, node: fx.Node, after: fx.Node) -> None:
        """Note a new node behind one."""
        self._position[node], self._users[node] = self._position[after], []

    def latest(self, arguments: Any) -> Any:
        """The arguments of a later node, as they are at this place."""
        return fx.map_arg(arguments, self._latest)

    def add(self, node: fx.Node, sources: set[fx.Node]) -> None:
        """Note that the value of a node may share memory with others."""
        self.memory[node] = frozenset().union(*(self.memory[source] for source in sources)) or frozenset((node,))
        for made in self.memory[node]:
            self._sharing.setdefault(made, []).append(node)
        spelling = self._vocabulary.spelling(node.target)
        is_expanded = spelling is not None and spelling.operation.overlaps
        if sources and (is_expanded or not sources.isdisjoint(self.overlapping)):
            self.overlapping.add(node)

    def used_later(self, changed: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
        """The other values that share memory with one and are used later, each with its next user."""
        seen: set[fx.Node] = set()
        for made in self.memory[changed]:
            used = [(alias, self._next_user(alias)) for alias in self._sharing[made]]
            # What is not used any more is never used again.
            self._sharing[made] = [alias for alias, user in used if user is not None]
            for alias, user in used:
                if user is not None and alias is not changed and alias not in seen:
                    seen.add(alias)
                    yield alias, user

    def change(self, changed: fx.Node, node: fx.Node) -> None:
        """Let later nodes read ``node`` in place of the value that it changed."""
        names = self._names.pop(changed, [changed])
        self._names[node] = [*(name for name in names if self._first_after(name) is not None), node]
        self._changed_by[changed] = node
        self.memory[node] = frozenset((node,))
        self._sharing[node] = [node]

    def _latest(self, value: fx.Node) -> fx.Node:
        """The last change of a value; the way there is kept short for the next time."""
        passed = []
        while value in self._changed_by:
            passed.append(value)
            value = self._changed_by[value]
        self._changed_by.update(dict.fromkeys(passed, value))
        return value

    def _next_user(self, value: fx.Node) -> fx.Node | None:
        if value in self._changed_by:
            return None
        users = (self._first_after(name) for name in self._names.get(value, [value]))
        return min((user for user in users if user is not None), key=self._position.__getitem__, default=None)

    def _first_after(self, name: fx.Node) -> fx.Node | None:
        users = self._users[name]
        index = bisect.bisect_right(users, self._place, key=self._position.__getitem__)
        return users[index] if index < len(users) else None


def _may_have_another_type(node: fx.Node, vocabulary: Vocabulary, is_mixed: bool) -> bool:
    """Whether the result out of place may have another type than the value that the call changes in place.

    Args:
        node: The call.
        vocabulary: The vocabulary.
        is_mixed: Whether values may have several types of floating numbers.
    """
    spelling = vocabulary.spelling(node.target)
    makes_conditions = spelling is not None and spelling.operation.makes_conditions
    return makes_conditions or (is_mixed and len(node.all_input_nodes) > 1)


def _is_mixed(program: Program) -> bool:
    """Whether values may have several types: the model casts some, or its inputs, parameters and buffers differ."""
    root = program.graph_module
    dtypes = {each.dtype for each in (*root.parameters(), *root.buffers())}
    dtypes.update(each.dtype for each in program.options.examples)
    if sum(dtype.is_floating_point or dtype.is_complex for dtype in dtypes) > 1:
        return True
    spellings = (program.vocabulary.spelling(node.target) for node in program.graph.nodes if node.op != "get_attr")
    return any(spelling is not None and spelling.operation.is_cast for spelling in spellings)


def _writes_back(user: fx.Node, arguments: Any, base: fx.Node, view: fx.Node, changed: fx.Node) -> bool:
    """Whether ``user`` is the end of ``base[i] += y``, which Python executes as a change of a view and a write-back."""
    reads = view.target is operator.getitem and view.args[0] is base
    return reads and user.target is operator.setitem and arguments == (base, view.args[1], changed)


def _first(node: fx.Node) -> fx.Node | None:
    """The tensor that a call works on."""
    value = node.args[0] if node.args else node.kwargs.get("input", node.kwargs.get("self"))
    return value if isinstance(value, fx.Node) else None


def _changed_value(node: fx.Node, vocabulary: Vocabulary) -> fx.Node | None:
    """The value that a call changes in place."""
    if node.op not in ("call_function", "call_method"):
        return None
    if node.kwargs.get("out") is not None:
        raise SymbolicTraceError(f"a call with out= is not supported: {describe(node)}")
    return _first(node) if _is_inplace(node, vocabulary) else None


_AUGMENTED = frozenset(
    getattr(operator, f"i{name}")
    for name in "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split()
)


def _is_inplace(node: fx.Node, vocabulary: Vocabulary) -> bool:
    spelling = vocabulary.spelling(node.target)
    if spelling is None:
        name = str(getattr(node.target, "__name__", node.target))
        by_name = name.endswith("_") and not name.startswith("_") and node.target is not operator.not_
        return node.target in _AUGMENTED or by_name or bool(node.kwargs.get("inplace"))
    return spelling.inplace or _inplace_argument(node, spelling.operation.parameters)


def _spell_out_of_place(node: fx.Node) -> None:
    """Call the out-of-place form of an in-place operation that is not canonical, or raise an error."""
    name = str(getattr(node.target, "__name__", node.target))
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
        return
    plain = name.removeprefix("i") if node.target in _AUGMENTED else name.removesuffix("_")
    places = (operator,) if node.target in _AUGMENTED else (torch.Tensor, torch, F)
    for candidate in (plain, f"{plain}_") if places == (operator,) else (plain,):
        function = next((getattr(place, candidate) for place in places if hasattr(place, candidate)), None)
        if function is not None:
            node.op, node.target = "call_function", function
            return
    raise SymbolicTraceError(f"an in-place operation without an out-of-place form is not supported: {describe(node)}")


def _inplace_argument(node: fx.Node, parameters: Any) -> bool:
    names = list(parameters)
    if "inplace" in node.kwargs:
        return bool(node.kwargs["inplace"])
    position = names.index("inplace") if "inplace" in names else len(node.args)
    return position < len(node.args) and bool(node.args[position])


def _viewed_values(node: fx.Node, vocabulary: Vocabulary) -> set[fx.Node]:
    """The values whose memory the result of a call may share: a result that is not known to be new may be a view."""
    spelling = vocabulary.spelling(node.target)
    if node.op not in ("call_function", "call_method") or (spelling is not None and spelling.operation.allocates):
        return set()
    first = _first(node)
    is_view = spelling is not None and first is not None
    return {first} if is_view and first is not None else set(node.all_input_nodes)
