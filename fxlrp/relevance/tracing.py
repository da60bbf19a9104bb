"""Trace a function of a step's tensors, and add the ATen calls to the program.

The function runs on fake tensors with symbolic sizes, so the calls are valid for other sizes. Where the trace depends
on a size, :func:`expect_sizes` checks it when the program runs.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import operator
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from fxlrp.autocast_cache import without_fake_weights
from fxlrp.capture.lock import ONE_CAPTURE
from fxlrp.errors import UnsupportedOpError
from fxlrp.generated_code import forgotten_with_code
from fxlrp.graph_parts import copied
from fxlrp.inputs import ExamplesNeeded
from fxlrp.operation import Operation
from fxlrp.program import SIZE
from fxlrp.provenance import describe
from fxlrp.relevance.inlining import inlined
from fxlrp.relevance.sizes import expect_sizes
from fxlrp.relevance.step import Step
from fxlrp.relevance.validity import Validity
from fxlrp.shapes import InputSpec

Apply: TypeAlias = Callable[..., "tuple[Tensor, ...]"]
Body: TypeAlias = Callable[[Apply, Sequence[Tensor], Sequence[Tensor]], "tuple[tuple[Tensor, ...], tuple[Tensor, ...]]"]


log = logging.getLogger("fxlrp")


@dataclass(frozen=True)
class _Slot:
    """The place of an input among the arguments of a call."""

    index: int


def traced(
    step: Step,
    body: Body,
    positions: Sequence[int],
    received: Mapping[int, fx.Node],
    results: int | None = None,
) -> tuple[fx.Node, ...]:
    """Emit the contributions to operands that a function of tensors computes.

    Args:
        step: The step.
        body: Returns the contributions and the results of the operation. Its arguments are the operation as a function
            of the operands, the operands, and the relevance of the results.
        positions: The positions of the operands.
        received: The relevance of the results, by index; 0 for an operation with one result.
        results: The number of tensors that the function returns first; by default one for each position.

    Raises:
        ExamplesNeeded: The sizes of the values are not known.
    """
    arguments, operands = _arguments(step, positions)
    arguments = fx.map_arg(arguments, functools.partial(_opened, step))
    others: list[fx.Node] = []
    fx.map_arg(arguments, others.append)
    others = list(dict.fromkeys(others))
    inputs = [*operands, *others]
    slots = {node: _Slot(index) for index, node in enumerate(others, start=len(operands))}

    def slot(leaf: Any) -> Any:
        return slots[leaf] if isinstance(leaf, fx.Node) else leaf

    call = _Call.of(
        step,
        body,
        fx.node.map_aggregate(arguments, slot),
        received=tuple(received),
        inputs=tuple(_spec(step, node) for node in inputs),
        operands=len(operands),
    )
    try:
        made = call.trace()
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UnsupportedOpError(
            f"the relevance step of the {describe(step.node, step.operation.name)} cannot be derived ({reason}): write "
            f"a rule with @fxlrp.rule_for"
        ) from error
    given = [*inputs, *received.values()]
    # The check is on the way to the results: total sums read the operands alone.
    way = len(inputs) if results is None else 0
    valid = made.validity.sizes, made.validity.conditions, step.operation.name
    given[way] = step.call(expect_sizes, given[way], inputs, *valid)
    return inlined(step, made.graph, given, results or len(positions))


@dataclass(frozen=True)
class _Traced:
    """A traced graph, and the sizes for which it is valid. Steps that share it do not change it."""

    graph: fx.Graph
    validity: Validity


@dataclass(frozen=True)
class _Call:
    """What a trace depends on: equal calls have equal traces.

    Args:
        body: As for :func:`traced`.
        received: The indices of the results that receive relevance.
        inputs: The specifications of the operands that receive relevance, and of the other values of the call.
        operands: The number of these operands.
        text: The operation, its arguments and its inputs as text, which tells 1 from 1.0 and from True.
        differentiable: Whether autograd can differentiate the result.
        settings: The settings of torch that the trace depends on.
        operation: The operation.
        arguments: Its bound arguments, with slots for the inputs.
    """

    body: Body
    received: tuple[int, ...]
    inputs: tuple[InputSpec | int | float, ...]
    operands: int
    text: str
    differentiable: bool
    settings: tuple[Hashable, ...]
    operation: Operation = field(compare=False)
    arguments: Mapping[str, Any] = field(compare=False)

    @staticmethod
    def of(
        step: Step,
        body: Body,
        arguments: Mapping[str, Any],
        *,
        received: tuple[int, ...],
        inputs: tuple[InputSpec | int | float, ...],
        operands: int,
    ) -> _Call:
        text = f"{step.operation.name}({arguments}) of {inputs}"
        differentiable, settings = step.facts.differentiable, _settings(inputs)
        return _Call(body, received, inputs, operands, text, differentiable, settings, step.operation, arguments)

    def trace(self) -> _Traced:
        """Trace the call; one that was traced before is not traced again."""
        leaves = list[Any]()
        fx.node.map_aggregate(self.arguments, leaves.append)
        # A user-defined function may read what is not among its arguments.
        is_told_by_text = not self.operation.signatures and all(type(leaf) in _PLAIN for leaf in leaves)
        return _trace_once(self) if is_told_by_text else _trace(self)

    def run(self, *values: Any) -> tuple[Tensor, ...]:
        """The contributions and the results, of the inputs and the relevance of the results."""
        given, received = values[: len(self.inputs)], values[len(self.inputs) :]
        contributions, outputs = self.body(self.apply_with(given), given[: self.operands], received)
        return (*contributions, *outputs)

    def apply_with(self, given: Sequence[Any]) -> Apply:
        """The operation as a function of its operands, with the other values of ``given``."""

        def apply(*tensors: Tensor) -> tuple[Tensor, ...]:
            values = (*tensors, *given[self.operands :])
            arguments = fx.node.map_aggregate(
                self.arguments, lambda leaf: values[leaf.index] if isinstance(leaf, _Slot) else leaf
            )
            args, kwargs = self.operation.call(arguments)
            result = self.operation.function(*args, **kwargs)
            return tuple(result[index] for index in self.received) if self.operation.multiple_results else (result,)

        return apply


# The types of arguments whose text tells them apart.
_PLAIN = frozenset({_Slot, type(None), bool, int, float, complex, str, type(...)}) | {
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
}


def _settings(inputs: Sequence[InputSpec | int | float]) -> tuple[Hashable, ...]:
    devices = {each.device.type for each in inputs if isinstance(each, InputSpec)}
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.cuda.cudnn_sdp_enabled(),
        *(
            (device, torch.get_autocast_dtype(device))
            for device in sorted(devices)
            if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        ),
    )


def _trace(call: _Call) -> _Traced:
    """Trace a call for any sizes, or only for those of the examples if the operation needs numbers."""

    def attempt(*, any_sizes: bool) -> _Traced:
        environment = ShapeEnv(duck_shape=False)
        fake_mode = FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True)
        # What it keeps is for the sizes of one environment, which no other trace has: a fifth of the time.
        fake_mode.cache_enabled = False
        # With gradients, autograd composes transposed maps of operations that have derivatives themselves.
        mode = torch.set_grad_enabled(call.differentiable)
        with ONE_CAPTURE, mode, _without_onednn(), fake_mode, without_fake_weights():
            fakes = [
                _fake(environment, spec, f"value{index}") if any_sizes else _fixed(spec)
                for index, spec in enumerate(call.inputs)
            ]
            outputs = call.apply_with(fakes)(*fakes[: call.operands])
            cotangents = [torch.empty_like(output) for output in outputs]
            made = forgotten_with_code(make_fx(torch.func.functionalize(call.run))(*fakes, *cotangents))
        return _Traced(_lean(made.graph), Validity.of(environment, fakes))

    try:
        with _quiet():
            return attempt(any_sizes=True)
    except Exception as error:
        # Some operations need sizes as numbers: the step is then valid for these sizes only, and checks them.
        log.debug("no trace of %s for any sizes: %s", call.operation.name, error)
    with _quiet():
        return attempt(any_sizes=False)


# Models repeat their blocks, and explainers answer several questions.
_trace_once = functools.lru_cache(maxsize=256)(_trace)


def _lean(graph: fx.Graph) -> fx.Graph:
    """A copy of a graph without dead code and without the fake tensors of its trace. It says which values are sizes."""
    copies: dict[fx.Node, fx.Node] = {}
    lean = copied(graph, copies)
    for node, made in copies.items():
        is_size = isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool)
        made.meta = {SIZE: True} if is_size else {}
    lean.eliminate_dead_code()
    return lean


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    """Do not trace its recurrent layers: they return a workspace for their derivative only if autograd runs them.

    ``torch.backends.mkldnn.flags`` also sets the precision of other devices, and warns where there are none.
    """
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Do not log what a fake tensor reports of an operation that fails; the error says it."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.addFilter(_nothing)
    try:
        yield
    finally:
        logger.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False


def _fixed(spec: InputSpec | int | float) -> Any:
    return spec if isinstance(spec, int | float) else torch.empty(spec.shape, dtype=spec.dtype, device=spec.device)


def _arguments(step: Step, positions: Sequence[int]) -> tuple[dict[str, Any], list[fx.Node]]:
    """The bound arguments with slots for the operands at ``positions``, and these operands."""
    arguments, operands, position = dict(step.arguments), [], 0
    slots = {each: _Slot(index) for index, each in enumerate(positions)}
    for name in step.operation.operands:
        value = arguments[name]
        several = isinstance(value, list | tuple)
        items = list(value) if several else [value]
        for index, item in enumerate(items):
            if position in slots:
                operands.append((slots[position].index, item))
                items[index] = slots[position]
            position += 1
        arguments[name] = tuple(items) if several else items[0]
    return arguments, [item for _, item in sorted(operands, key=lambda pair: pair[0])]


def _opened(step: Step, node: fx.Node) -> Any:
    """The single sizes in place of all sizes of a value; any other node itself."""
    sizes = step.facts.values.get(node.name)
    if not isinstance(sizes, tuple):
        return node
    return tuple(step.call(operator.getitem, node, dim) for dim in range(len(sizes)))


def _spec(step: Step, node: fx.Node) -> InputSpec | int | float:
    found = step.facts.values.get(node.name)
    if node.target is operator.getitem and found is None:
        # One that _opened has made.
        source, dim = node.args
        sizes = step.facts.values.get(source.name) if isinstance(source, fx.Node) else None
        found = sizes[dim] if isinstance(sizes, tuple) and isinstance(dim, int) else None
    if found is not None and not isinstance(found, tuple):
        return found
    reason = f"the relevance step of {step.operation.name} is derived for tensors of known sizes"
    if step.facts.values:
        raise UnsupportedOpError(
            f"{reason}, but those of {node.name!r} are not known: {describe(step.node, step.operation.name)}"
        )
    raise ExamplesNeeded(reason)


def _fake(environment: ShapeEnv, spec: InputSpec | int | float, name: str) -> Any:
    def symbolic(size: int, dim: int) -> Any:
        if size < 2:
            return size
        source = ConstantSource(f"{name}_{dim}")
        symbol = environment.create_symbol(size, source, DimDynamic.DYNAMIC, constraint_dim=None)
        return environment.create_symintnode(symbol, hint=size, source=source)

    if isinstance(spec, int):
        return symbolic(spec, 0)
    if isinstance(spec, float):
        return spec
    shape = [symbolic(size, dim) for dim, size in enumerate(spec.shape)]
    return torch.empty(shape, dtype=spec.dtype, device=spec.device)
