"""The ``torch.export`` front end, for models that symbolic tracing cannot follow.

It runs the model once on example inputs and records ATen calls, so it follows control flow on sizes, and traces into
functions that symbolic tracing does not. The batch and the length of a sequence are dynamic. Other sizes are those of
the examples, unless ``dynamic_shapes`` says otherwise.
"""

from __future__ import annotations

import operator
import re
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind

from fxlrp import nested
from fxlrp.autocast_cache import without_fake_weights
from fxlrp.capture import hidden_views
from fxlrp.capture.aten import ASSERTIONS, name_of, only_first_is_read, spell
from fxlrp.capture.distributions import unchecked_distributions
from fxlrp.capture.escaped_paths import any_name_in_code
from fxlrp.capture.functional_graph import functional, open_regions
from fxlrp.capture.holder import Holder, name_inputs
from fxlrp.capture.known_constants import KnownConstants
from fxlrp.capture.lock import ONE_CAPTURE
from fxlrp.capture.model_copy import copy_with_shared_tensors
from fxlrp.capture.outputs import Selected, Selection
from fxlrp.capture.root_module import CONSTANTS, on_live_model
from fxlrp.capture.shape_guards import INPUTS, ShapeGuards
from fxlrp.capture.value_guards import Tape
from fxlrp.errors import CaptureError, InputError
from fxlrp.generated_code import forgotten_with_code
from fxlrp.inputs import Inputs
from fxlrp.provenance import MODEL, is_users_file
from fxlrp.quiet import quiet
from fxlrp.vocabulary.lookup import Vocabulary

DynamicShapes = Mapping[str, Any] | None


def capture(
    model: nn.Module,
    inputs: Inputs,
    vocabulary: Vocabulary,
    output: Selected = None,
    dynamic_shapes: DynamicShapes = None,
    constants: Collection[str] = (),
) -> tuple[fx.GraphModule, ShapeGuards]:
    """Export ``model`` to a forward graph that reads parameters from the live model. The model is not changed.

    Args:
        model: The model, in eval mode.
        inputs: Its inputs, with examples.
        vocabulary: The canonical operations.
        output: The output that is explained.
        dynamic_shapes: As for ``torch.export.export``, by argument name.
        constants: The names of the inputs that are not explained.

    Returns:
        The graph, and the inputs for which it is valid.

    Raises:
        CaptureError: ``torch.export`` cannot follow the model.
    """
    attempt = _first_attempt(model, inputs, vocabulary, output, dynamic_shapes, constants)
    converter = _Converter(model, inputs, attempt.exported, vocabulary)
    graph, lifted = converter.convert()
    attempt.selection.note(graph)
    return on_live_model(model, graph, lifted), attempt.guards


class _ForwardError(Exception):
    """An error of the model's forward."""

    def __init__(self, reason: RuntimeError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class _QuietHolder(Holder):
    """Evaluates constants, and hides the type of errors: at some, ``torch.export`` prints the graph that it has."""

    def __init__(
        self, model: nn.Module, inputs: Inputs, select: Selection, known: Mapping[str, Tensor], tape: Tape
    ) -> None:
        super().__init__(model, inputs, select)
        self._known, self._tape = known, tape

    def forward(self, *inputs: Any) -> Any:
        try:
            with KnownConstants(self._tape) as constants:
                for position, (name, traced) in enumerate(zip(self._inputs.names, inputs, strict=True)):
                    if name in self._known:
                        constants.know(traced, self._known[name], position, name)
                return super().forward(*inputs)
        except (CaptureError, InputError):
            raise
        except RuntimeError as error:
            raise _ForwardError(error) from error


@dataclass(frozen=True)
class _Attempt:
    """A successful export."""

    exported: ExportedProgram
    selection: Selection
    guards: ShapeGuards


def _first_attempt(
    model: nn.Module,
    inputs: Inputs,
    vocabulary: Vocabulary,
    output: Selected,
    dynamic_shapes: DynamicShapes,
    constants: Collection[str],
) -> _Attempt:
    """The first export that is valid for the example inputs, from the most general on.

    ``torch.export`` treats a size of one as constant, so a batch of one is doubled first. A model that needs the
    number of its samples, or another size, is captured for the sizes of the examples. One that looks at values is
    captured for what it reads of inputs without relevance.
    """
    own = {name: inputs.examples[name].detach() for name in inputs.names}
    doubled = with_batch(inputs)
    batches = [own] if _same_shapes(doubled, own) else [doubled, own]
    readable = {
        name
        for name, value in own.items()
        if name in constants or not (value.is_floating_point() or value.is_complex())
    }
    reason: Exception | None = None
    # torch.export replaces the parameters of a module for a while: other threads must not see that, and hidden ones
    # do not allow it.
    called = copy_with_shared_tensors(model)
    for known in (frozenset[str](), readable):
        for values in batches:
            for shapes in _dynamic_shapes(inputs, values, dynamic_shapes):
                selection, tape = Selection(output), Tape()
                holder = _QuietHolder(called, inputs, selection, {name: values[name] for name in known}, tape)
                try:
                    exported = _export(holder, values, shapes, vocabulary)
                except _ForwardError as error:
                    reason = error.reason
                except (CaptureError, InputError):
                    raise
                except Exception as error:
                    reason = error
                else:
                    guards = ShapeGuards.of(exported, inputs, tape.guard())
                    if guards.misfit(tuple(own.values())) is None:
                        return _Attempt(exported, selection, guards)
        if not _reads_values(reason):
            break
    raise CaptureError(_cannot_follow(model, reason)) from reason


def _reads_values(error: Exception | None) -> bool:
    """Whether an error of ``torch.export`` is about a condition on values."""
    # Imported here: it needs sympy, which takes longer to import than all of fxlrp.
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    return isinstance(error, GuardOnDataDependentSymNode | DataDependentOutputException)


def _same_shapes(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(value.shape == second[name].shape for name, value in first.items())


def with_batch(inputs: Inputs) -> dict[str, Tensor]:
    """Return the examples with at least two samples: torch.export treats a size of one as constant."""
    values = {name: inputs.examples[name].detach() for name in inputs.names}
    batched = [value for value in values.values() if value.dim()]
    if not batched or batched[0].shape[0] != 1:
        return values
    return {
        name: torch.cat([value, value]) if value.dim() and value.shape[0] == 1 else value
        for name, value in values.items()
    }


def _dynamic_shapes(inputs: Inputs, values: Mapping[str, Tensor], given: DynamicShapes) -> list[tuple[Any, ...]]:
    """The dynamic sizes of every input, in order, for each attempt."""
    if given is None:
        fixed = [(None,) * len(values)] if _same_shapes(values, inputs.examples) else []
        return [*(_dynamic(values, lengths) for lengths in (True, False)), *fixed]
    by_argument = {**given, **dict(zip(inputs.several, given.get(inputs.variadic or "", ()), strict=False))}
    found: list[Any] = []
    for name, template in inputs.arguments.items():
        _spread(template, by_argument.get(name), found)
    return [tuple(found)]


def _spread(template: Any, sizes: Any, found: list[Any]) -> None:
    """Add the dynamic sizes of the inputs in an argument, which have the structure of the argument, to ``found``."""
    if isinstance(template, nested.Slot):
        found.append(sizes)
        return
    parts = nested.container(template)
    for index, (key, element) in enumerate(zip(parts.keys, parts.elements, strict=True) if parts else ()):
        by_key = sizes.get(key) if isinstance(sizes, Mapping) else None
        _spread(element, sizes[index] if isinstance(sizes, list | tuple) else by_key, found)


def _dynamic(values: Mapping[str, Tensor], lengths: bool) -> tuple[Any, ...]:
    """The dynamic sizes: the batch, and the lengths of sequences."""
    batch = next((value.shape[0] for value in values.values() if value.dim()), None)
    found = []
    for value in values.values():
        dims = {0} if value.dim() and value.shape[0] == batch else set()
        if lengths and value.dim() <= 3:
            # For tokens, masks, embeddings and waves only: images with all sizes dynamic take torch.export minutes.
            dims |= set(range(1, value.dim()))
        found.append({dim: Dim.AUTO for dim in dims if value.shape[dim] > 1} or None)
    return tuple(found)


def _export(
    holder: Holder, values: Mapping[str, Tensor], dynamic_shapes: tuple[Any, ...], vocabulary: Vocabulary
) -> ExportedProgram:
    with ONE_CAPTURE, torch.no_grad(), quiet(), any_name_in_code(), without_fake_weights(), unchecked_distributions():
        exported = torch.export.export(
            holder, tuple(values.values()), dynamic_shapes={INPUTS: dynamic_shapes}, strict=False
        )
        forgotten_with_code(exported.graph_module)
        open_regions(exported.graph_module)
        hidden_views.check(exported.graph, vocabulary)
        made = functional(exported, vocabulary)
        forgotten_with_code(made.graph_module)
        return made


class _Converter:
    """Converts an exported graph, which calls ATen and takes parameters as inputs, to the form of symbolic tracing."""

    def __init__(self, model: nn.Module, inputs: Inputs, exported: ExportedProgram, vocabulary: Vocabulary) -> None:
        self._model, self._inputs, self._exported, self._vocabulary = model, inputs, exported, vocabulary
        self._graph = fx.Graph()
        self._constants = nn.Module()
        self._values: dict[fx.Node, Any] = {}
        self._device: fx.Node | None = None
        # A module with two names is recorded under both.
        self._classes = {path: type(module) for path, module in model.named_modules(remove_duplicate=False)}

    def convert(self) -> tuple[fx.Graph, nn.Module]:
        """Return the graph, and the tensors in it that are not parameters."""
        placeholders = self._placeholders()
        users = [node for node, spec in placeholders if spec.kind is InputKind.USER_INPUT]
        for node, name in zip(users, self._inputs.identifiers, strict=True):
            self._values[node] = self._graph.placeholder(name)
        name_inputs(self._graph, self._inputs)
        for node, spec in placeholders:
            if spec.kind is not InputKind.USER_INPUT:
                self._values[node] = self._graph.get_attr(self._attribute(spec))
        for node in self._exported.graph.nodes:
            if node.op == "call_function":
                self._convert(node)
            elif node.op == "get_attr":
                raise CaptureError(f"control flow on values is not supported: torch.export captured {node.target}")
        self._output()
        return self._graph, self._constants

    def _placeholders(self) -> list[tuple[fx.Node, InputSpec]]:
        nodes = [node for node in self._exported.graph.nodes if node.op == "placeholder"]
        return list(zip(nodes, self._exported.graph_signature.input_specs, strict=True))

    def _attribute(self, spec: InputSpec) -> str:
        """The path, below the root, of a lifted parameter, buffer or constant."""
        path = str(spec.target)
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            return path
        value = self._exported.constants.get(path)
        if spec.kind is not InputKind.CONSTANT_TENSOR or not isinstance(value, Tensor):
            raise CaptureError(f"{type(self._model).__name__} has an input that is not a tensor: {path}")
        name = f"constant_{len(list(self._constants.buffers()))}"
        self._constants.register_buffer(name, value.detach())
        return f"{CONSTANTS}.{name}"

    def _convert(self, node: fx.Node) -> None:
        if name_of(node.target) in ASSERTIONS:
            return
        source = node.args[0] if node.target is operator.getitem else None
        if isinstance(source, fx.Node) and only_first_is_read(source):
            if node.args[1] == 0:
                self._values[node] = self._values[source]
            return
        function, args, kwargs = spell(node, self._vocabulary)
        args, kwargs = fx.map_arg((args, kwargs), self._value)
        args, kwargs = self._on_device_of_inputs(args, kwargs)
        made = self._graph.create_node("call_function", function, args, kwargs, name=node.name)
        made.meta["nn_module_stack"] = self._module_stack(node)
        made.stack_trace = users_line(node.stack_trace)
        self._values[node] = made

    def _value(self, node: fx.Node) -> Any:
        if node not in self._values:
            raise CaptureError(f"reading a result of {node.args[0]} other than the first is not supported")
        return self._values[node]

    def _on_device_of_inputs(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Create tensors on the device of the inputs instead of that of the examples."""
        first = next(iter(self._inputs.examples.values())).device

        def moved(value: Any) -> Any:
            if not isinstance(value, torch.device) or value != first:
                return value
            if self._device is None:
                last = [node for node in self._graph.nodes if node.op in ("placeholder", "get_attr")][-1]
                with self._graph.inserting_after(last):
                    x = next(node for node in self._graph.nodes if node.op == "placeholder")
                    self._device = self._graph.call_function(getattr, (x, "device"))
            return self._device

        return pytree.tree_map(moved, args), {name: moved(value) for name, value in kwargs.items()}

    def _module_stack(self, node: fx.Node) -> dict[str, tuple[str, type]]:
        """The module stack in the form of symbolic tracing."""
        stack = {}
        # The second call of a module has a key with a number.
        for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
            path = re.sub(r"@\d+", "", str(path).removeprefix("L['self']").lstrip("."))
            below = path.removeprefix(MODEL).lstrip(".")
            if path.startswith(MODEL) and below in self._classes:
                stack[str(key)] = (path, self._classes[below])
        return stack

    def _output(self) -> None:
        specs = self._exported.graph_signature.output_specs
        returned = self._exported.graph.output_node().args[0]
        assert isinstance(returned, tuple)
        results = []
        for value, spec in zip(returned, specs, strict=True):
            if spec.kind is OutputKind.USER_OUTPUT:
                results.append(self._values[value] if isinstance(value, fx.Node) else value)
            elif spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION):
                path = str(spec.target).removeprefix(f"{MODEL}.")
                raise CaptureError(f"the model changes its parameter or buffer {path!r} in forward")
        structure = self._exported.call_spec.out_spec
        assert structure is not None
        self._graph.output(pytree.tree_unflatten(results, structure))


def users_line(stack_trace: str | None) -> str | None:
    """The innermost frame of a formatted stack that is in the user's code, in the same format."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in (.+)\n\s*(.*)', stack_trace or "")
    for file, line, function, code in reversed(frames):
        if is_users_file(file):
            return f'File "{file}", line {line}, in {function}\n    {code}'
    return None


def _cannot_follow(model: nn.Module, error: Exception | None) -> str:
    if error is None:
        return f"torch.export captures {type(model).__name__} for other sizes than those of the example inputs"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users_file(frame.filename)]
    where = f" at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""
    first = str(error).strip().splitlines()
    return (
        f"torch.export cannot follow {type(model).__name__}{where} ({type(error).__name__}: "
        f"{first[0] if first else ''}). Control flow may depend on the values of integers and of inputs in "
        "constants=[...], but not on other values: compute every branch and choose with torch.where, or use an "
        "implementation without it, such as grouped_mm for experts (docs/transformers.md)"
    )
