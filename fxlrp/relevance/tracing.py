"""Trace a function of a step's tensors, and add the ATen calls to the program.

The function runs on fake tensors with symbolic sizes, so the calls are valid for other sizes. Where the trace depends
on a size, :func:`expect_sizes` checks it when the program runs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx
from torch._dynamo.source import ConstantSource
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from fxlrp.autocast_cache import without_fake_weights
from fxlrp.capture.lock import ONE_CAPTURE
from fxlrp.errors import InternalError, UnsupportedOpError
from fxlrp.inputs import ExamplesNeeded
from fxlrp.program import SIZE
from fxlrp.provenance import describe
from fxlrp.relevance.element_relevance import written_into_strides
from fxlrp.relevance.sizes import expect_sizes
from fxlrp.relevance.step import Step
from fxlrp.relevance.validity import Validity
from fxlrp.shapes import InputSpec

Apply: TypeAlias = Callable[..., "tuple[Tensor, ...]"]
Body: TypeAlias = Callable[[Apply, Sequence[Tensor], Sequence[Tensor]], "tuple[tuple[Tensor, ...], tuple[Tensor, ...]]"]


log = logging.getLogger("fxlrp")


@dataclass(frozen=True)
class _Slot:
    """The place of an operand that receives relevance, among the arguments of a call."""

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
    others: list[fx.Node] = []
    fx.map_arg(arguments, others.append)
    others = list(dict.fromkeys(others))
    inputs = [*operands, *others]

    def apply_with(values: Sequence[Any]) -> Apply:
        given = dict(zip(others, values, strict=True))

        def apply(*tensors: Tensor) -> tuple[Tensor, ...]:
            def value(leaf: Any) -> Any:
                if isinstance(leaf, _Slot):
                    return tensors[leaf.index]
                return given[leaf] if isinstance(leaf, fx.Node) else leaf

            args, kwargs = step.operation.call(fx.node.map_aggregate(arguments, value))
            result = step.operation.function(*args, **kwargs)
            return tuple(result[index] for index in received) if step.operation.multiple_results else (result,)

        return apply

    def flat(*values: Any) -> tuple[Tensor, ...]:
        tensors, rest = values[: len(operands)], values[len(operands) : len(inputs)]
        contributions, outputs = body(apply_with(rest), tensors, values[len(inputs) :])
        return (*contributions, *outputs)

    specs = [_spec(step, node) for node in inputs]
    made = _trace(step, flat, apply_with, specs, len(operands))
    given = [*inputs, *received.values()]
    # The check is on the way to the results: total sums read the operands alone.
    way = len(inputs) if results is None else 0
    valid = made.validity.sizes, made.validity.conditions, step.operation.name
    given[way] = step.call(expect_sizes, given[way], inputs, *valid)
    return _inlined(step, made.graph, given, results or len(positions))


@dataclass(frozen=True)
class _Traced:
    """A traced graph, and the sizes for which it is valid."""

    graph: fx.Graph
    validity: Validity


def _trace(
    step: Step,
    flat: Callable[..., tuple[Tensor, ...]],
    apply_with: Callable[[Sequence[Any]], Apply],
    specs: Sequence[InputSpec | int | float],
    operands: int,
) -> _Traced:
    """Trace ``flat`` for any sizes, or only for those of the examples if the operation needs numbers."""

    def attempt(*, any_sizes: bool) -> _Traced:
        environment = ShapeEnv(duck_shape=False)
        fake_mode = FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True)
        # With gradients, autograd composes transposed maps of operations that have derivatives themselves.
        mode = torch.set_grad_enabled(step.facts.differentiable)
        with ONE_CAPTURE, mode, _without_onednn(), fake_mode, without_fake_weights():
            fakes = [
                _fake(environment, spec, f"value{index}") if any_sizes else _fixed(spec)
                for index, spec in enumerate(specs)
            ]
            outputs = apply_with(fakes[operands:])(*fakes[:operands])
            cotangents = [torch.empty_like(output) for output in outputs]
            made = make_fx(torch.func.functionalize(flat))(*fakes, *cotangents)
        return _Traced(made.graph, Validity.of(environment, fakes))

    try:
        with _quiet():
            return attempt(any_sizes=True)
    except Exception as error:
        # Some operations need sizes as numbers: the step is then valid for these sizes only, and checks them.
        log.debug("no trace of %s for any sizes: %s", step.operation.name, error)
    try:
        with _quiet():
            return attempt(any_sizes=False)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UnsupportedOpError(
            f"the relevance step of the {describe(step.node, step.operation.name)} cannot be derived ({reason}): write "
            f"a rule with @fxlrp.rule_for"
        ) from error


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


def _spec(step: Step, node: fx.Node) -> InputSpec | int | float:
    if node.name in step.facts.values:
        return step.facts.values[node.name]
    reason = f"the relevance step of {step.operation.name} is derived for tensors of known sizes"
    if step.facts.values:
        raise UnsupportedOpError(
            f"{reason}, but those of {node.name!r} depend on values: {describe(step.node, step.operation.name)}"
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


# A view of a contiguous fake tensor may be a copy where the real one has other strides.
_RESHAPED = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default, torch.ops.aten._reshape_alias.default)

# What autograd detaches is still a value of the step, whose derivative must not be cut.
_SAME = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)

# Other calls may not take a view of a tensor that is still to be conjugated or negated.
_LAZY = {
    torch.ops.aten._conj.default: torch.ops.aten.conj_physical.default,
    torch.ops.aten._neg_view.default: torch.ops.aten.neg.default,
}


# torch.vmap, which maps steps over questions, has no rules for these calls of ATen, but for others.
_MAPPABLE = {
    torch.ops.aten.sym_size.int: Tensor.size,
    torch.ops.aten.sym_stride.int: Tensor.stride,
    torch.ops.aten.sym_numel.default: Tensor.numel,
    torch.ops.aten.sym_storage_offset.default: Tensor.storage_offset,
    torch.ops.aten.as_strided_scatter.default: written_into_strides,
}

# The fake tensors were contiguous, and these calls take no others.
_OF_CONTIGUOUS = (torch.ops.aten.view_as_complex.default,)

_STRIDED = (
    torch.ops.aten.as_strided.default,
    torch.ops.aten.as_strided_scatter.default,
    torch.ops.aten.new_empty_strided.default,
    torch.ops.aten.sym_stride.int,
)


_EMPTY = frozenset("empty empty_like empty_strided new_empty new_empty_strided".split())
# They overwrite their first argument, and read only its sizes and strides.
_OVERWRITE = frozenset("copy fill zero".split())


def _name(node: fx.Node) -> str:
    return str(node.target._schema.name).removeprefix("aten::") if isinstance(node.target, OpOverload) else ""


def reads_unwritten(graph: fx.Graph) -> bool:
    """Whether a functional graph reads the elements of a tensor without values, because a write to it was lost."""
    return any(
        _name(node) in _EMPTY and any(_name(user) not in _OVERWRITE for user in node.users) for node in graph.nodes
    )


def contiguous(value: Any) -> Any:
    """A tensor in contiguous memory; a number as it is."""
    return value.contiguous() if isinstance(value, Tensor) else value


def _inlined(step: Step, graph: fx.Graph, inputs: Sequence[fx.Node], contributions: int) -> tuple[fx.Node, ...]:
    """Copy the calls of a traced graph, except that of the operation itself, whose value the program has."""
    graph.eliminate_dead_code()
    if reads_unwritten(graph):
        raise InternalError(f"the trace of the step of {step.operation.name} reads memory that nothing has written")
    depends_on_strides = any(node.target in _STRIDED for node in graph.nodes)
    if depends_on_strides:
        # The fake tensors were contiguous.
        inputs = [step.call(contiguous, each) for each in inputs]
    values: dict[fx.Node, Any] = dict(zip(graph.find_nodes(op="placeholder"), inputs, strict=True))
    results = graph.output_node().args[0]
    assert isinstance(results, tuple | list)
    value = results[-1]
    # A value that is looked for among others is computed as they are: another kernel may round it otherwise.
    is_looked_for = any(node.target is torch.ops.aten.eq.Tensor for node in graph.nodes)
    if (
        isinstance(value, fx.Node)
        and value not in values
        and not (step.operation.multiple_results or depends_on_strides or is_looked_for)
    ):
        values[value] = step.node
    for node in graph.nodes:
        if node in values or node.op == "output":
            continue
        if node.op != "call_function":
            raise InternalError(f"the derived step of {step.operation.name} reads a constant, {node.target}")
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        if isinstance(kwargs.get("device"), torch.device):
            # Tensors that the step makes are on the device of its relevance, not on that of the examples.
            kwargs = {**kwargs, "device": step.call(getattr, inputs[-1], "device")}
            kwargs["device"].meta[SIZE] = True
        if node.target in _LAZY and isinstance(args[0], complex):
            values[node] = args[0].conjugate() if node.target is torch.ops.aten._conj.default else -args[0]
        elif node.target in _SAME:
            values[node] = args[0]
        elif node.target in _RESHAPED:
            values[node] = step.call(torch.ops.aten.reshape.default, args[0], args[1])
        else:
            if node.target in _OF_CONTIGUOUS:
                args = tuple(step.call(contiguous, each) for each in args)
            target = (_MAPPABLE | _LAZY).get(node.target, node.target)
            values[node] = step.call(target, *args, **kwargs)
        if isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool):
            values[node].meta[SIZE] = True
    return tuple(values[each] for each in results[:contributions] if isinstance(each, fx.Node))
