"""Find the values that the names of a question mean: inputs, modules and nodes."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence

from torch import fx

from fxlrp.absence import why_absent
from fxlrp.errors import InputError
from fxlrp.parameters import has_name_of_parameter, reads_of
from fxlrp.program import Program, annotation, input_name
from fxlrp.provenance import MODEL, module_stack
from fxlrp.question import is_glob


class Places:
    """The names of a forward graph: its inputs, nodes, and modules with the values that they return."""

    def __init__(self, program: Program, nodes: Iterable[fx.Node] | None = None) -> None:
        """Read a forward graph.

        Args:
            program: The program, to which no relevance has been added.
            nodes: The nodes of the graph that a later pass has made of that of ``program``; None for its own.
        """
        self._program = program
        self._nodes: dict[str, fx.Node] = {}
        self._inputs: dict[str, fx.Node] = {}
        self._modules: dict[str, dict[fx.Node, None]] = {}
        modules: dict[fx.Node, dict[str, None]] = {}
        for node in program.graph.nodes if nodes is None else nodes:
            if node.op == "output":
                continue
            if not has_name_of_parameter(program, node):
                self._nodes[node.name] = node
            if node.op == "placeholder":
                self._inputs[input_name(node)] = node
            for each in (node, *node.users):
                if each not in modules:
                    modules[each] = dict.fromkeys(path for path, _ in module_stack(each))
            for path in modules[node]:
                returned = self._modules.setdefault(path, {})
                if any(path not in modules[user] for user in node.users):
                    returned.update(dict.fromkeys(self._results(node)))

    def _results(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """The values of a node: itself, or the nodes that select its results if it has several."""
        selecting = (user for user in node.users if self._program.vocabulary.result_index(user) is not None)
        return tuple(selecting) or (node,)

    def meant(self, name: str) -> Sequence[fx.Node]:
        """The values that a name may mean: the input, the results of the node, or those that the module returns."""
        own = self._own(name)
        return self._results(own) if own is not None else tuple(self._modules.get(name, ()))

    def others(self) -> dict[str, str]:
        """The names of inputs and the paths of modules, with the node whose value each means."""

        def has_relevance(node: fx.Node) -> bool:
            return annotation(node) is not None

        modules = {path: self._one(path, has_relevance) for path in self._modules if path}
        inputs = {name: node.name for name, node in self._inputs.items()}
        return {**{path: node.name for path, node in modules.items() if node is not None}, **inputs}

    def _own(self, name: str) -> fx.Node | None:
        """The input or node with a name."""
        return self._inputs.get(name) or self._nodes.get(name)

    def parameters(self, name: str) -> dict[str, tuple[fx.Node, ...]]:
        """The parameters that a path or a pattern means, with the nodes that read them; empty for any other name."""
        if self.meant(name) or (is_glob(name) and self._matching(name)):
            return {}
        model = self._program.graph_module.get_submodule(MODEL)
        paths = [path for path, _ in model.named_parameters(remove_duplicate=False)]
        chosen = fnmatch.filter(paths, name) if is_glob(name) else [name]
        found = {path: reads_of(self._program, path) for path in chosen}
        return {path: reads for path, reads in found.items() if reads}

    def _matching(self, pattern: str) -> list[str]:
        """The inputs, nodes and modules that a pattern matches; parameters match by their paths."""
        nodes = (name for name, node in self._nodes.items() if node.op != "get_attr")
        names = (*self._inputs, *nodes, *self._modules)
        return [name for name in names if name and fnmatch.fnmatchcase(name, pattern)]

    def inside(self, argument: str, name: str) -> tuple[fx.Node, ...]:
        """The nodes that a name means: a node, those of a module, those that read a parameter, or all for a pattern.

        Args:
            argument: The argument in which the name was given, for messages.
            name: The name.

        Raises:
            InputError: There are none.
        """
        chosen: tuple[str, ...] = (name,)
        if is_glob(name) and not self.meant(name):
            chosen = (*self._matching(name), *self.parameters(name))
        modules = frozenset(chosen)
        inside = (node for node in self._nodes.values() if any(path in modules for path, _ in module_stack(node)))
        found = dict.fromkeys((*(node for each in chosen for node in self.alone(each)), *inside))
        if not found:
            if is_glob(name):
                raise InputError(f"{argument}={name!r} matches no module, node, input or parameter")
            if any(node.name == name for node in self._program.graph.nodes):
                raise InputError(
                    f"{argument}={name!r}: an optimization has made this node a part of another one; with "
                    "fxlrp.compile(..., optimize=False) it has its own place"
                )
            raise InputError(f"{argument}={name!r}: {why_absent(self._program, name)}")
        return tuple(found)

    def alone(self, name: str) -> tuple[fx.Node, ...]:
        """The input or node of a name, or the nodes that read the parameter; empty for modules and patterns."""
        own = self._own(name)
        if own is not None:
            return (own,)
        reads = () if is_glob(name) else self.parameters(name).get(name, ())
        return tuple(self._nodes[read.name] for read in reads if read.name in self._nodes)

    def names(self, given: Iterable[str], has_relevance: Callable[[fx.Node], bool]) -> tuple[str, ...]:
        """The names, with those that it matches in place of each pattern.

        A pattern matches the modules that return one value with relevance. If there are none, it matches inputs and
        nodes with relevance.

        Raises:
            InputError: A pattern matches nothing.
        """
        found: list[str] = []
        for name in given:
            matched = self._matched(name, has_relevance) if is_glob(name) and not self.meant(name) else [name]
            if not matched:
                raise InputError(f"at={name!r} matches no module, node or input that relevance reaches")
            found.extend(matched)
        return tuple(dict.fromkeys(found))

    def _matched(self, pattern: str, has_relevance: Callable[[fx.Node], bool]) -> list[str]:
        def matches(names: Iterable[str]) -> list[str]:
            return [name for name in names if name and fnmatch.fnmatchcase(name, pattern)]

        modules = [path for path in matches(self._modules) if self._one(path, has_relevance) is not None]
        own = {name: self._own(name) for name in (*self._inputs, *self._nodes)}
        return modules or [name for name in matches(own) if (node := own[name]) is not None and has_relevance(node)]

    def _one(self, path: str, has_relevance: Callable[[fx.Node], bool]) -> fx.Node | None:
        found = [node for node in self._modules[path] if has_relevance(node)]
        return found[0] if len(found) == 1 else None

    def value(self, argument: str, name: str, has_relevance: Callable[[fx.Node], bool]) -> fx.Node:
        """The value with a name, the result of this node, or what the module at this path returns.

        A node is found without relevance, too.

        Args:
            argument: The argument in which the name was given, for messages.
            name: The name.
            has_relevance: Whether relevance reaches a value.

        Raises:
            InputError: The value does not exist, or the name means several.
        """
        own = self._own(name)
        found = [node for node in self.meant(name) if has_relevance(node)]
        if not found and own is not None:
            return own
        if not found:
            raise InputError(f"{argument}={name!r}: {why_absent(self._program, name)}")
        if len(found) > 1:
            several = (
                "module returns several values, or is called more than once"
                if own is None
                else "node has several results"
            )
            names = ", ".join(repr(node.name) for node in found)
            raise InputError(f"{argument}={name!r}: the {several}: choose {names}")
        return found[0]


def requested(program: Program) -> frozenset[fx.Node]:
    """The values that the question of a program may name: their relevance must exist in the graph."""
    names = program.options.question.names
    if not names:
        return frozenset()
    places = Places(program)
    names = tuple(name for name in names if not places.parameters(name))
    return frozenset(node for name in places.names(names, lambda node: True) for node in places.meant(name))
