"""Convert an explanation to a ``torch.export`` program: ATen operators, the weights once, a dynamic batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode

from fxlrp.arguments import shown
from fxlrp.attention.kernels import written_out
from fxlrp.capture import DynamicShapes
from fxlrp.capture.export import with_batch
from fxlrp.capture.lock import ONE_CAPTURE
from fxlrp.deploy.controls import (
    Control,
    ExportTarget,
    built_in_target,
    described,
    questions_of,
    read_condition,
    read_target,
    values_of,
    with_conditions,
)
from fxlrp.errors import ExportError, FxlrpError
from fxlrp.generated_code import forgotten_with_code
from fxlrp.inputs import Inputs, identifier
from fxlrp.interface import Interface, Result, condition_on
from fxlrp.program import nodes_by_name
from fxlrp.signature import Signature

aten = torch.ops.aten

# The name of the size that is the number of samples.
BATCH = "batch"


@dataclass(frozen=True)
class Exportable:
    """The parts of an explainer that export needs.

    Args:
        graph_module: The generated program.
        interface: Its inputs and results.
        signature: The inputs, with examples, and the sizes for which the program is valid.
        rules: The operation, the rule and its origin for every relevance step.
        conditions: The conditions, by the name of the value.
    """

    graph_module: fx.GraphModule
    interface: Interface
    signature: Signature
    rules: Mapping[str, Mapping[str, str]]
    conditions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """The name of the model's class."""
        return type(self.graph_module).__name__

    @property
    def inputs(self) -> Inputs:
        """The model's inputs, with examples."""
        return self.signature.inputs

    @property
    def results(self) -> tuple[Result, ...]:
        """The results of an explanation: the relevance of real inputs and of tokens."""
        names = self.signature.explained(self.inputs.examples, (each.name for each in self.interface.results))
        return tuple(each for each in self.interface.results if each.name in names)


@dataclass(frozen=True)
class ExportedExplanation:
    """An exported explanation.

    Args:
        exported: The program.
        inputs: The names of its inputs, in order.
        shapes: Their sizes, with names for dynamic ones.
        outputs: The names of its outputs, in order.
        target: The name of the input that is the target, the fixed indices of the target (a slice in words), or
            "largest".
        conditions: For each value with a condition the name of the input that is the condition, or the fixed one in
            words.
        meanings: What the inputs beside those of the model are, in words, by name.
    """

    exported: ExportedProgram
    inputs: tuple[str, ...]
    shapes: tuple[tuple[int | str, ...], ...]
    outputs: tuple[str, ...]
    target: str | tuple[int | str, ...]
    conditions: Mapping[str, str] = field(default_factory=dict)
    meanings: Mapping[str, str] = field(default_factory=dict)


def export(
    explanation: Exportable,
    *,
    target: ExportTarget,
    dynamic_shapes: DynamicShapes,
    decompositions: Mapping[Any, Callable[..., Any]] | None = None,
    writes_out_attention: bool = False,
) -> ExportedExplanation:
    """Return the exported program of an explanation.

    Args:
        explanation: The explanation.
        target: The output to explain; "input" makes it an input of the program.
        dynamic_shapes: The dynamic sizes beside the batch, in the form of ``torch.export``, by input.
        decompositions: The functions that replace ATen operators.
        writes_out_attention: Whether the program calls none of the kernels of attention, which belong to a device.

    Raises:
        ExportError: The target does not fit the output of the model, or a size cannot be dynamic.
    """
    values = with_batch(explanation.inputs)
    args = list(values.values())
    by_input, first = _shapes(values, dynamic_shapes)
    attention = written_out() if writes_out_attention else nullcontext()
    try:
        with torch.no_grad():
            graph, controls, built_in = _graph(explanation, target, args)
        shapes = (*by_input, *({each.batch_dim: first} for each in controls.values()))
        args.extend(each.example for each in controls.values())
        with ONE_CAPTURE, torch.no_grad(), _Decomposed(decompositions or {}), attention:
            module = _module(explanation.graph_module, graph, built_in)
            exported = torch.export.export(module, tuple(args), dynamic_shapes=shapes, strict=False)
    except FxlrpError as error:
        # Remove the position in the graph, which tracing adds.
        raise type(error)(str(error).partition("\n\nWhile executing")[0]) from error
    except Exception as error:
        raise ExportError(_cannot_export(error)) from error
    _remove_idle_casts(exported.graph)
    for node in exported.graph.nodes:
        # Drop the source lines, which are longer than the steps themselves.
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    exported.graph_module.recompile()
    forgotten_with_code(exported.graph_module)
    names = (*explanation.inputs.identifiers, *(each.name for each in controls.values()))
    return ExportedExplanation(
        exported,
        inputs=names,
        shapes=_named_shapes(exported, names),
        outputs=_output_names(explanation),
        target=controls["target"].name if "target" in controls else described(target),
        conditions={
            name: controls[condition_on(name)].name if condition_on(name) in controls else shown(value)
            for name, value in explanation.conditions.items()
        },
        meanings={each.name: each.meaning for each in controls.values()},
    )


def _named_shapes(exported: ExportedProgram, names: Sequence[str]) -> tuple[tuple[int | str, ...], ...]:
    """The sizes of the inputs; equal dynamic sizes have the same name."""
    users = set(exported.graph_signature.user_inputs)
    nodes = [node for node in exported.graph.nodes if node.op == "placeholder" and node.name in users]
    known: dict[str, str] = {}
    for name, node in zip(names, nodes, strict=True):
        for dim, size in enumerate(node.meta["val"].shape):
            if not isinstance(size, int):
                known.setdefault(str(size), f"{name}_{dim}" if dim or BATCH in known.values() else BATCH)
    return tuple(
        tuple(size if isinstance(size, int) else known[str(size)] for size in node.meta["val"].shape) for node in nodes
    )


class _Decomposed(TorchFunctionMode):
    """Replaces operators with decompositions during tracing, which saves a separate pass."""

    def __init__(self, decompositions: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self._decompositions = decompositions

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        decompose = self._decompositions.get(func)
        result = NotImplemented if decompose is None else decompose(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if result is NotImplemented else result


def batch_of(values: Sequence[Tensor]) -> int | None:
    """The number of samples of the examples."""
    return next((value.shape[0] for value in values if value.dim()), None)


def _shapes(values: Mapping[str, Tensor], dynamic_shapes: DynamicShapes) -> tuple[list[Any], Any]:
    """The dynamic sizes of each input in the form of ``torch.export``, and that of the batch."""
    asked, batch = dict(dynamic_shapes or {}), batch_of(list(values.values()))
    unknown = [name for name in asked if name not in values]
    if unknown:
        raise ExportError(f"dynamic_shapes names an unknown input {unknown[0]!r}; the inputs are: {', '.join(values)}")
    batched = [name for name, value in values.items() if value.dim() and value.shape[0] == batch]
    said = [asked[name] for name in batched if name in asked]
    chosen = [dims[0] for dims in said if (0 in dims if isinstance(dims, Mapping) else dims)]
    first = chosen[0] if chosen else Dim.STATIC if None in said else Dim("batch")
    by_input = []
    for name in values:
        open_batch = {0: first} if name in batched else {}
        dims = asked.get(name, {})
        by_input.append({**open_batch, **dims} if isinstance(dims, Mapping) else dims)
    return by_input, first


def _graph(
    explanation: Exportable, target: ExportTarget, values: Sequence[Tensor]
) -> tuple[fx.Graph, dict[str, Control], dict[str, Any]]:
    """The graph with the requested target and conditions, and without a seed.

    Returns:
        The graph, its inputs beside those of the model by what each controls, and the objects that it reads, by name.
    """
    graph, interface = fx.Graph(), explanation.interface
    graph.graph_copy(explanation.graph_module.graph, {})
    nodes = nodes_by_name(graph)
    if interface.start not in nodes:
        raise ExportError("no relevance reaches an input: the explanation is zero for every input and target")
    inputs = [nodes[name] for name in interface.inputs]
    placeholders = {name: nodes[node] for name, node in interface.controls.items()}
    for node in (*inputs, *placeholders.values()):
        node.args, node.type = (), None
    conditions = {condition_on(name): value for name, value in explanation.conditions.items()}
    asked: dict[str, Any] = {"seed": None, **conditions, "target": target}
    questions = {name: found for name, value in asked.items() if (found := questions_of(value)) is not None}
    made = _controls(explanation, placeholders, questions, values) if questions else {}
    read: dict[str, Any] = {}
    for name, control in placeholders.items():
        if name not in made:
            path = f"built_in_{control.name}"
            read[path] = built_in_target(target) if name == "target" else asked[name]
            with graph.inserting_after(control):
                control.replace_all_uses_with(graph.get_attr(path))
            graph.erase_node(control)
    guards = explanation.signature.guards
    if guards is not None:
        # On symbolic sizes the conditions of capture become conditions of the program.
        last = [node for node in graph.nodes if node.op == "placeholder"][-1]
        with graph.inserting_after(last):
            graph.call_function(guards.check, (tuple(inputs),))
    returned = [nodes[result.relevance] for result in explanation.results if result.relevance is not None]
    if interface.returns_output:
        returned.append(nodes[interface.explained])
    graph.output(returned[0] if len(returned) == 1 else tuple(returned))
    return graph, made, read


def _controls(
    explanation: Exportable, placeholders: Mapping[str, fx.Node], questions: Mapping[str, int], values: Sequence[Tensor]
) -> dict[str, Control]:
    """The controls that are inputs of the file, in their order, by name."""
    interface, module = explanation.interface, explanation.graph_module
    of = {name: node for name, node in with_conditions(interface, module).items() if name in questions}
    batch = batch_of(values) or 1
    found = values_of(module, [interface.explained, *of.values()], values)
    made: dict[str, Control] = {}
    for name, placeholder in placeholders.items():
        if name == "target" and name in questions:
            made[name] = read_target(placeholder, questions[name], found[interface.explained], batch)
        elif name in questions:
            made[name] = read_condition(placeholder, questions[name], found[of[name]], batch)
    return made


def _output_names(explanation: Exportable) -> tuple[str, ...]:
    several = [f"relevance_{identifier(each.name)}" for each in explanation.results]
    names = several if len(several) > 1 else ["relevance"]
    return (*names, "output") if explanation.interface.returns_output else tuple(names)


def _module(root: nn.Module, graph: fx.Graph, built_in: Mapping[str, Any]) -> fx.GraphModule:
    """``graph`` on the tensors of ``root`` that it reads, shared and without gradients, and on the built-in objects."""
    constants: dict[str, Any] = dict(built_in)
    shared: dict[Tensor, Tensor] = {}
    for path in _paths(graph.nodes):
        if path in constants:
            continue
        value = attrgetter(path)(root)
        if not isinstance(value, Tensor):
            # The function of the steps of several questions.
            constants[path] = value
            continue
        if value not in shared:
            detached = value.detach()
            shared[value] = nn.Parameter(detached, False) if isinstance(value, nn.Parameter) else detached
        constants[path] = shared[value]
    return forgotten_with_code(fx.GraphModule(constants, graph, class_name="Explanation"))


def _paths(nodes: Iterable[fx.Node]) -> list[str]:
    return sorted({str(node.target) for node in nodes if node.op == "get_attr"})


def _remove_idle_casts(graph: fx.Graph) -> None:
    """Remove casts of values to their own type, and the type checks that come with them."""
    casts = [node for node in graph.nodes if node.target is aten.to.dtype]
    for node in casts:
        source = node.args[0]
        is_idle = node.meta["val"].dtype == source.meta["val"].dtype and len(node.args) == 2 and not node.kwargs
        if is_idle and graph.output_node() not in node.users:
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    for node in list(graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            (source,) = node.args[:1]
            if not any(user.target is aten.to.dtype for user in source.users):
                graph.erase_node(node)
    graph.eliminate_dead_code()


def _cannot_export(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        f"torch.export cannot follow the explanation ({type(error).__name__}: {' '.join(lines[:3])}). If a size "
        "cannot be dynamic, make it static: dynamic_shapes={'input': {0: Dim.STATIC}} for the batch of 'input'"
    )
