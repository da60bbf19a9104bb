"""Rewrite in-place operations as functional ones, including later uses of the changed values.

``ReLU(inplace=True)`` overwrites the pre-activation that a rule needs, and dead-code elimination would delete an
in-place call whose result is unused. After this pass every later use of a changed value reads the result of the
change, so that normalization may drop the in-place spelling.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxlrp.errors import SymbolicTraceError
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program
from fxlrp.provenance import describe
from fxlrp.vocabulary import Vocabulary
from fxlrp.vocabulary.sizes import sizes_of


@compiler_pass(provides=["functional"])
def functionalize(program: Program) -> int:
    """Make later uses of a value changed in place read the changing node; return how many changes there were."""
    sizes = sizes_of(program.graph, program.vocabulary)
    position = {node: index for index, node in enumerate(program.graph.nodes)}
    memory: dict[fx.Node, frozenset[fx.Node]] = {}
    changes = 0
    changed_inputs: dict[fx.Node, None] = {}
    for node in list(program.graph.nodes):
        changed = _changed_value(node, program.vocabulary)
        if changed is None or changed in sizes:
            sources = _viewed_values(node, program.vocabulary).difference(sizes)
            memory[node] = frozenset().union(*(memory[source] for source in sources)) or frozenset((node,))
            continue
        if any(made.op == "get_attr" for made in memory[changed]):
            raise SymbolicTraceError(f"the model changes a parameter or buffer in place: {describe(node)}")
        changed_inputs.update((made, None) for made in memory[changed] if made.op == "placeholder")
        aliases = [other for other in memory if memory[other] & memory[changed] and other is not changed]
        for alias in aliases:
            later = sorted((user for user in alias.users if position[user] > position[node]), key=position.__getitem__)
            if later and not _writes_back(later[0], alias, changed, node):
                raise SymbolicTraceError(
                    f"an in-place change of a view also changes {alias.name!r}, which is used later by "
                    f"{later[0].name!r}: {describe(node)}. Use an out-of-place operation"
                )
        for user in [user for user in changed.users if position[user] > position[node]]:
            user.replace_input_with(changed, node)
        if program.vocabulary.spelling(node.target) is None:
            _spell_out_of_place(node)
        memory[node] = frozenset((node,))
        changes += 1
    program.facts.changed_inputs = tuple(changed_inputs)
    return changes


def _writes_back(user: fx.Node, base: fx.Node, view: fx.Node, changed: fx.Node) -> bool:
    """Whether ``user`` is the end of ``base[i] += y``, which Python executes as a change of a view and a write-back."""
    reads = view.target is operator.getitem and view.args[0] is base
    return reads and user.target is operator.setitem and user.args == (base, view.args[1], changed)


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
