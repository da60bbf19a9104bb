"""Convert an explanation to a ``torch.export`` program: ATen operators, the weights once, a dynamic batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from types import EllipsisType
from typing import Any, Literal, SupportsIndex, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode

from fxlrp.capture import DynamicShapes
from fxlrp.capture.export import with_batch
from fxlrp.capture.lock import ONE_CAPTURE
from fxlrp.errors import ExportError, FxlrpError
from fxlrp.generated_code import forgotten_with_code
from fxlrp.inputs import Inputs, identifier
from fxlrp.interface import Interface, Result
from fxlrp.program import nodes_by_name
from fxlrp.relevance.targets import Choice, Each, as_constant
from fxlrp.signature import Signature

Constant: TypeAlias = "SupportsIndex | slice | EllipsisType"
ExportTarget: TypeAlias = "Literal['input', 'largest'] | Constant | tuple[Constant, ...] | Each | Choice | None"

aten = torch.ops.aten


@dataclass(frozen=True)
class Exportable:
    """The parts of an explainer that export needs.

    Args:
        graph_module: The generated program.
        interface: Its inputs and results.
        signature: The inputs, with examples, and the sizes for which the program is valid.
        rules: The operation, the rule and its origin for every relevance step.
        conditions: The conditions that are built in, by the name of the control.
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
    """

    exported: ExportedProgram
    inputs: tuple[str, ...]
    shapes: tuple[tuple[int | str, ...], ...]
    outputs: tuple[str, ...]
    target: str | tuple[int | str, ...]


def export(
    explanation: Exportable,
    *,
    target: ExportTarget,
    dynamic_shapes: DynamicShapes,
    decompositions: Mapping[Any, Callable[..., Any]] | None = None,
) -> ExportedExplanation:
    """Return the exported program of an explanation.

    Args:
        explanation: The explanation.
        target: The output to explain; "input" makes it an input of the program.
        dynamic_shapes: The dynamic sizes beside the batch, in the form of ``torch.export``, by input.
        decompositions: The functions that replace ATen operators.

    Raises:
        ExportError: The target does not fit the output of the model, or a size cannot be dynamic.
    """
    values = with_batch(explanation.inputs)
    args = list(values.values())
    batch = next((value.shape[0] for value in args if value.dim()), None)
    shapes = _shapes(values, batch, dynamic_shapes)
    graph, name, built_in = _graph(explanation, target)
    if name is not None:
        args.append(torch.zeros(batch or 1, dtype=torch.long, device=args[0].device))
    try:
        with ONE_CAPTURE, torch.no_grad(), _Decomposed(decompositions or {}):
            module = _module(explanation.graph_module, graph, built_in)
            exported = torch.export.export(module, tuple(args), dynamic_shapes=shapes[: len(args)], strict=False)
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
    inputs = explanation.inputs.identifiers
    names = inputs if name is None else (*inputs, name)
    return ExportedExplanation(
        exported,
        inputs=names,
        shapes=_named_shapes(exported, names),
        outputs=_output_names(explanation),
        target=name or _described(target),
    )


def _described(target: ExportTarget) -> str | tuple[int | str, ...]:
    if isinstance(target, Each | Choice):
        return str(target)
    parts = as_constant(target)
    return "largest" if parts is None else tuple(map(_in_words, parts))


def _in_words(part: int | slice | EllipsisType) -> int | str:
    if isinstance(part, slice):
        ends = (part.start, part.stop, *(() if part.step is None else (part.step,)))
        return ":".join("" if end is None else str(end) for end in ends)
    return part if isinstance(part, int) else "..."


def _named_shapes(exported: ExportedProgram, names: Sequence[str]) -> tuple[tuple[int | str, ...], ...]:
    """The sizes of the inputs; equal dynamic sizes have the same name."""
    users = set(exported.graph_signature.user_inputs)
    nodes = [node for node in exported.graph.nodes if node.op == "placeholder" and node.name in users]
    known: dict[str, str] = {}
    for name, node in zip(names, nodes, strict=True):
        for dim, size in enumerate(node.meta["val"].shape):
            if not isinstance(size, int):
                known.setdefault(str(size), f"{name}_{dim}" if dim or "batch" in known.values() else "batch")
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


def _shapes(values: Mapping[str, Tensor], batch: int | None, dynamic_shapes: DynamicShapes) -> tuple[Any, ...]:
    """The dynamic sizes of each input, and of the target after them, in the form of ``torch.export``."""
    asked = dict(dynamic_shapes or {})
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
    return (*by_input, {0: first})


def _graph(explanation: Exportable, target: ExportTarget) -> tuple[fx.Graph, str | None, dict[str, Any]]:
    """The graph with the requested target and without a seed.

    Returns:
        The graph, the name of the input that is the target, and the objects that it reads, by name.
    """
    graph, interface = fx.Graph(), explanation.interface
    graph.graph_copy(explanation.graph_module.graph, {})
    nodes = nodes_by_name(graph)
    if interface.start not in nodes:
        raise ExportError("no relevance reaches an input: the explanation is zero for every input and target")
    given, start = nodes[interface.controls["target"]], nodes[interface.start]
    inputs = [nodes[name] for name in interface.inputs]
    for node in (*inputs, given):
        node.args, node.type = (), None
    output = nodes[interface.explained]
    built_in: dict[str, Any] = {name: explanation.conditions.get(name) for name in interface.controls}
    if target == "input":
        if any(user is not start for user in given.users):
            raise ExportError(_several_indices(3))  # the positions that are computed depend on the target
        with graph.inserting_before(start):
            checked = graph.call_function(_index, (given, output))
        start.replace_input_with(given, checked)
        del built_in["target"]
    elif isinstance(target, Each | Choice) or as_constant(target) is not None:
        built_in["target"] = target
    elif target is not None and target != "largest":
        raise ExportError(
            f"target must be 'input', 'largest', an index or a tuple of indices, slices and ..., not {target!r}"
        )
    read: dict[str, Any] = {}
    for name, value in built_in.items():
        control = nodes[interface.controls[name]]
        path = f"built_in_{control.name}"
        read[path] = value
        with graph.inserting_after(control):
            control.replace_all_uses_with(graph.get_attr(path))
        graph.erase_node(control)
    guards = explanation.signature.guards
    if guards is not None:
        # On symbolic sizes the conditions of capture become conditions of the program.
        with graph.inserting_after(given if target == "input" else inputs[-1]):
            graph.call_function(guards.check, (tuple(inputs),))
    returned = [nodes[result.relevance] for result in explanation.results if result.relevance is not None]
    if interface.returns_output:
        returned.append(output)
    graph.output(returned[0] if len(returned) == 1 else tuple(returned))
    return graph, str(given.target) if target == "input" else None, read


def _index(target: Tensor, output: Tensor) -> Tensor:
    """The index of each sample's target; a wrong target is passed on such that every runtime rejects it."""
    if output.dim() < 2:
        raise ExportError("the output is one number for each sample and takes no target: export with target='largest'")
    if output.dim() != 2:
        raise ExportError(_several_indices(output.dim()))
    # In ONNX negative indices count from the end.
    return torch.where(target < 0, output.shape[1], target)


def _several_indices(dims: int) -> str:
    return (
        f"an output with {dims} dimensions does not take one target for each sample: export with target='largest' or "
        "with a tuple of indices"
    )


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
