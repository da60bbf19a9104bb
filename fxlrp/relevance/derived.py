"""Relevance of operations whose transposed map is derived, not written: their vector-Jacobian product is traced.

The step of an operation is written as a function of tensors that uses :func:`torch.func.vjp`. Tracing it on fake
tensors with symbolic sizes gives calls of ATen functions, among them ATen's own backward kernels, and these calls
become the step. The program uses no autograd. Sizes on which the trace depends are checked when the program runs.

With ``J`` the Jacobian of the operation at its operands:

- An operation that is linear in its operands has LRP-epsilon, ``R_x = x * J^T(R / s(z))`` (Bach et al., 2015).
- A selection, hard like the median or soft like logsumexp, passes relevance to the selected elements: ``R_x = J^T R``.
- Any other function divides relevance like its linear part: ``R_x = x * J^T(R / s(J x))``. For an elementwise function
  of several operands the shares are proportional to ``x_i df/dx_i``; for norms and distances ``J x`` is the result.
- :class:`~fxlrp.rules.Gradient` is the vector-Jacobian product itself, ``R_x = x * J^T(R / y)``.
- :class:`~fxlrp.rules.Backpropagation` is that without the values, ``R_x = J^T R``.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxlrp.functions import factor_count
from fxlrp.operation import Family, Operation
from fxlrp.program import Relevance
from fxlrp.relevance import fourier, shape
from fxlrp.relevance.held import SELECTED
from fxlrp.relevance.numerics import divide_components, stabilize, unbroadcast
from fxlrp.relevance.proportional import LinearMap, backpropagated, proportional
from fxlrp.relevance.step import Absorber, Contributions, Emitter, Implementation, RuleTable, Step, like_receiver
from fxlrp.rules.rule import Rule
from fxlrp.rules.specs import Backpropagation, Epsilon, Gradient, PassThrough, SignalTakeAll, Uniform

if TYPE_CHECKING:
    from fxlrp.relevance.tracing import Apply, Body

Tensors: TypeAlias = "tuple[Tensor, ...]"


def _traced(
    step: Step, body: Body, positions: Sequence[int], received: Mapping[int, fx.Node], results: int | None = None
) -> tuple[fx.Node, ...]:
    # Tracing imports large parts of torch, which only programs with derived steps need.
    from fxlrp.relevance.tracing import traced

    return traced(step, body, positions, received, results)


def pull_back(apply: Apply, operands: Sequence[Tensor], relevances: Sequence[Tensor]) -> tuple[Tensors, Tensors]:
    """``J^T u`` for every operand, and the results of the operation."""
    outputs, back = torch.func.vjp(apply, *operands)[:2]
    cotangents = tuple(u.to(out.dtype) for u, out in zip(relevances, outputs, strict=True))
    return back(cotangents), outputs


def linear_part(apply: Apply, operands: Sequence[Tensor], relevances: Sequence[Tensor]) -> tuple[Tensors, Tensors]:
    """``J x``, the sum of ``x_i df/dx_i`` over the operands: ``J`` is the transpose of the linear map ``J^T``."""
    outputs, back = torch.func.vjp(apply, *operands)[:2]
    forth = torch.func.vjp(lambda *u: back(u), *(torch.zeros_like(output) for output in outputs))[1]
    return forth(tuple(operands)), outputs


def _slopes(apply: Apply, operands: Sequence[Tensor], shape: torch.Size) -> tuple[list[Tensor], Tensors, Tensors]:
    """``df/dx_i`` of an elementwise function, the operands in the shape of its result, and the result."""
    wide = tuple(each.expand(shape) for each in operands)
    outputs, back = torch.func.vjp(apply, *wide)[:2]
    slopes = back(tuple(torch.ones_like(output) for output in outputs))
    # A contribution of zero is zero, even where the derivative is infinite, as that of a power of zero.
    finite = [s.masked_fill((x == 0) & ~s.isfinite(), 0.0) for s, x in zip(slopes, wide, strict=True)]
    return finite, wide, outputs


def pull_back_elements(
    apply: Apply, operands: Sequence[Tensor], relevances: Sequence[Tensor]
) -> tuple[Tensors, Tensors]:
    """:func:`pull_back` for an elementwise function."""
    (u,) = relevances
    slopes, _, outputs = _slopes(apply, operands, u.shape)
    return tuple(unbroadcast(slope * u, x) for slope, x in zip(slopes, operands, strict=True)), outputs


def linear_part_of_elements(
    apply: Apply, operands: Sequence[Tensor], relevances: Sequence[Tensor]
) -> tuple[Tensors, Tensors]:
    """:func:`linear_part` for an elementwise function."""
    slopes, wide, outputs = _slopes(apply, operands, relevances[0].shape)
    (output,) = outputs
    return (functools.reduce(torch.add, map(torch.mul, slopes, wide)).to(output.dtype),), outputs


def transposed(step: Step, u: fx.Node, position: int) -> fx.Node:
    """Emit ``J^T u`` for the operand at a position."""
    written = _WRITTEN.get(step.operation.name)
    if written is not None:
        return written(step, u, position)
    (pulled,) = _traced(step, pull_back, (position,), {0: u})
    return pulled


def _linear_part(step: Step) -> fx.Node:
    written = _WRITTEN_TOTALS.get(step.operation.name)
    if written is not None:
        return written(step)
    (total,) = _traced(step, linear_part, step.receivers, {0: step.relevance}, results=1)
    return total


def _transposed_of_elements(step: Step, u: fx.Node, position: int) -> fx.Node:
    (pulled,) = _traced(step, pull_back_elements, (position,), {0: u})
    return pulled


def _linear_part_of_elements(step: Step) -> fx.Node:
    (total,) = _traced(step, linear_part_of_elements, step.receivers, {0: step.relevance}, results=1)
    return total


def _emit_function(step: Step) -> Contributions:
    if step.operation.elementwise:
        if len(step.receivers) == 1:
            return step.to_receivers(lambda _, operand: step.call(unbroadcast, step.relevance, operand))
        return _SHARES_OF_ELEMENTS.emit(step)
    return (_ONE if step.operation.homogeneous else _SHARES).emit(step)


def _emit_selection(step: Step) -> Contributions:
    factors = _own_factors(step) if step.facts.as_coefficients and step.operation.homogeneous else None
    if factors is not None:
        # A selected element is the result, so a multiple of one is a multiple of the other.
        moved = iter(_traced(step, pull_back, step.receivers, factors))
        return step.to_receivers(lambda _, operand: Relevance(next(moved), operand))
    received = step.parts if step.operation.multiple_results else {0: step.relevance}
    given = iter(_traced(step, pull_back, step.receivers, received))
    return step.to_receivers(lambda *_: next(given))


def _own_factors(step: Step) -> dict[int, fx.Node] | None:
    """The coefficients of the results, by index; None if one is not carried as a multiple of its result."""
    if isinstance(step.received, Relevance):
        return {0: step.received.factor} if step.received.base is step.node else None
    is_own = [each.base is not None and each.base.args == (step.node, index) for index, each in step.received.items()]
    return {index: each.factor for index, each in step.received.items()} if all(is_own) else None


def _emit_backpropagation(step: Step) -> Contributions:
    is_written = step.operation.name in _WRITTEN and not step.operation.multiple_results
    return (backpropagated(transposed).emit if is_written else _emit_selection)(step)


def _emit_several(epsilon: Callable[[Step], float]) -> Emitter:
    """LRP-epsilon of an operation that returns several tensors."""

    def emit(step: Step) -> Contributions:
        assert not isinstance(step.received, Relevance)
        quotients = {index: _over_part(step, index, each, epsilon(step)) for index, each in step.received.items()}
        given = iter(_traced(step, pull_back, step.receivers, quotients))
        return step.to_receivers(lambda _, operand: step.times(operand, next(given)))

    return emit


def _over_part(step: Step, index: int, received: Relevance, epsilon: float) -> fx.Node:
    """``R / s(z)`` for one of the results ``z`` of the step's node."""
    is_own = received.base is not None and received.base.args == (step.node, index)
    if is_own and epsilon == 0 and step.facts.as_coefficients:
        # z C / z, which is C where z is zero, too.
        return received.factor
    value = step.call(operator.getitem, step.node, index)
    if any(step.is_complex(user) for user in step.node.users if user.args == (step.node, index)):
        return step.call(divide_components, step.multiply(received), value, epsilon)
    return step.call(operator.truediv, step.multiply(received), step.call(stabilize, value, epsilon))


def _epsilon(step: Step) -> float:
    assert isinstance(step.rule, Epsilon)
    return step.rule.epsilon


def _linear(step: Step) -> Contributions:
    return _SEVERAL.emit(step) if step.operation.multiple_results else _ONE.emit(step)


def _gradient(step: Step) -> Contributions:
    return _emit_several(lambda _: 0.0)(step) if step.operation.multiple_results else _ONE.emit(step)


def _index_add_transposed(step: Step, u: fx.Node, position: int) -> fx.Node:
    """The rows that the source was added to, scaled like the source."""
    arguments = step.arguments
    if position == 0:
        return u
    rows = step.call(torch.index_select, u, arguments["dim"], arguments["index"])
    return rows if arguments["alpha"] == 1 else step.call(operator.mul, rows, arguments["alpha"])


def _scatter_add_transposed(step: Step, u: fx.Node, position: int) -> fx.Node:
    """The elements that the source was added to."""
    arguments = step.arguments
    return u if position == 0 else step.call(gathered, u, arguments["dim"], arguments["index"], arguments["src"])


def gathered(u: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """The elements at ``index``, in the shape of a source that may be larger."""
    return F.pad(
        u.gather(dim, index),
        [each for size, full in zip(index.shape[::-1], source.shape[::-1], strict=True) for each in (0, full - size)],
    )


def _fourier_transposed(step: Step, u: fx.Node, position: int) -> fx.Node:
    return fourier.emit_transposed(step, u)


def _grouped_transposed(step: Step, u: fx.Node, position: int) -> fx.Node:
    """Each group of rows by the transposed matrix of its expert."""
    arguments = step.arguments
    weight = step.call(torch.transpose, arguments["weight"], -2, -1)
    return step.call(step.operation.function, u, weight, offs=arguments["offs"])


def _moved_back(emit: Emitter) -> Callable[[Step, fx.Node, int], fx.Node]:
    def written(step: Step, u: fx.Node, position: int) -> fx.Node:
        moved = emit(replace(step, received=Relevance(u)))[position]
        assert isinstance(moved, fx.Node)
        return moved

    return written


# The transposed maps that tracing would not derive for every size, for unknown sizes, or not at all.
_WRITTEN: Mapping[str, Callable[[Step, fx.Node, int], fx.Node]] = {
    **{name: _moved_back(emit) for name, emit in shape.MOVES.items()},
    "index_add": _index_add_transposed,
    "scatter_add": _scatter_add_transposed,
    **dict.fromkeys(fourier.TRANSFORMS, _fourier_transposed),
    **dict.fromkeys(("grouped_mm", "grouped_mm_fallback"), _grouped_transposed),
}


def _products_of_factors(step: Step) -> fx.Node:
    """``x dz/dx`` is the product ``z`` for each of its factors that receives relevance."""
    arguments = {name: step.arguments[name] for name in ("input", "dim", "index", "source", "include_self")}
    return step.call(operator.mul, step.node, step.call(factor_count, **arguments, operands=step.receivers))


# The sums J x that tracing would not derive.
_WRITTEN_TOTALS: Mapping[str, Callable[[Step], fx.Node]] = dict.fromkeys(
    ("scatter_product", "index_product"), _products_of_factors
)


def stands_for_complex(rule: Rule) -> bool:
    """Whether LRP-epsilon by components may stand for a rule: of a linear operation they are the same."""
    return isinstance(rule, Epsilon | PassThrough | SignalTakeAll | Uniform)


def is_derivative(rule: Rule) -> bool:
    """Whether a rule is a derivative of the operation, which tracing derives for every differentiable one."""
    return type(rule) in ANY


def _selects_parts(operation: Operation, rule: Rule) -> bool:
    """Whether real and imaginary parts are moved, or dropped, as a change of the type does."""
    return isinstance(rule, PassThrough) and operation.family is Family.SHAPE


def complex_reason(operation: Operation, rule: Rule) -> str:
    """What is done in place of a step that complex values do not fit, for the table."""
    if is_derivative(rule):
        return "complex: a derived step"
    if _selects_parts(operation, rule):
        return "complex: to the parts that it reads"
    return "complex: LRP-epsilon of real and imaginary parts"


def complex_implementation(operation: Operation, rule: Rule) -> Implementation:
    """The step in place of one that complex values do not fit, as :func:`complex_reason` says."""
    if is_derivative(rule):
        return ANY[type(rule)]
    if _selects_parts(operation, rule):
        return _SELECTED
    return _FACTORS if operation.family in (Family.PRODUCT, Family.MATMUL) else _ONE


_ONE = replace(proportional(LinearMap(transposed, absorber=Absorber.OPERANDS)), of_complex=True)
_FACTORS = replace(proportional(LinearMap(transposed, are_factors=True, stabilizer=0.0)), of_complex=True)
_SEVERAL = Implementation(_emit_several(_epsilon), of_parameter=like_receiver(_emit_several(_epsilon)))
_SHARES = proportional(LinearMap(transposed, total=_linear_part))
_SHARES_OF_ELEMENTS = proportional(LinearMap(_transposed_of_elements, total=_linear_part_of_elements))

TRANSFORM: RuleTable = {Epsilon: replace(_ONE, emit=_linear, of_parameter=like_receiver(_linear))}
_SELECTED = Implementation(
    _emit_selection, of_parameter=like_receiver(_emit_selection), of_complex=True, frozen=SELECTED
)
SELECTION: RuleTable = {PassThrough: _SELECTED}
FUNCTION: RuleTable = {Epsilon: Implementation(_emit_function, of_parameter=like_receiver(_emit_function))}
ANY: Mapping[type[Rule], Implementation] = {
    Gradient: replace(_ONE, emit=_gradient, of_parameter=None, vanishes=False, absorber=None),
    Backpropagation: Implementation(_emit_backpropagation, of_complex=True),
}
