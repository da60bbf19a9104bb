"""Every fact that a row of the vocabulary states holds on values: signs, memory, what supports what, what moves."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from operator import getitem
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

import fxlrp
from fxlrp import Optimizations
from fxlrp.capture.root_module import CONSTANTS, on_live_model
from fxlrp.operation import Family, Operation
from fxlrp.passes import pipeline
from fxlrp.passes.base import run_passes
from fxlrp.program import Options, Program
from fxlrp.relevance import RULES, implementation
from fxlrp.rules import Epsilon, PassThrough, Rule, WinnerTakesAll
from fxlrp.rules.preset import Pair, Preset
from fxlrp.shapes import InputSpec
from fxlrp.vocabulary import CANONICAL
from helpers import one_in
from operation_samples import KINDS, Setting, call, mixed, non_negative, samples, settings, tensors_of
from operation_settings import SAMPLED
from places import Place

OPERATIONS = SAMPLED.values()


def named(operations: Iterator[Operation]) -> list[Any]:
    return [pytest.param(each, id=each.name) for each in operations]


def placeholders(count: int) -> list[fx.Node]:
    graph = fx.Graph()
    return [graph.placeholder(f"x{index}") for index in range(count)]


def node_at(nodes: list[fx.Node], index: int, place: Place) -> fx.Node:
    return nodes[index]


def node_for(node: fx.Node, value: Tensor) -> fx.Node:
    return node


def non_negative_at(known: frozenset[int], index: int, place: Place) -> Tensor:
    return (non_negative if index in known else mixed)(place, index)


def finite_at(known: frozenset[int], kind: Callable[[Place, int], Tensor], index: int, place: Place) -> Tensor:
    """Finite where it is known to be, also after an overflow of ``kind``."""
    return kind(place, index).nan_to_num(0.5, 2.0, -2.0) if index in known else not_finite(place, index)


def places_known(setting: Setting) -> Iterator[frozenset[int]]:
    """Which operands are known to be non-negative: every choice, all of them for a call with many operands."""
    count = len(setting.places)
    for size in range(count + 1) if count <= 3 else (0, count):
        yield from map(frozenset, itertools.combinations(range(count), size))


@pytest.mark.parametrize("operation", named(each for each in OPERATIONS if each.non_negative is not None))
def test_results_that_are_said_to_be_non_negative_are(operation: Operation) -> None:
    claims = 0
    for setting in settings(operation):
        nodes = placeholders(len(setting.places))
        arguments = setting.fill(functools.partial(node_at, nodes))
        for known in places_known(setting):
            if not operation.tells(operation.non_negative, arguments, {nodes[index] for index in known}):
                continue
            claims += 1
            values = setting.fill(functools.partial(non_negative_at, known))
            for result in tensors_of(call(operation, values)):
                # Rounding may leave a zero just below zero.
                assert not bool((result < -1e-15).any()), (setting.name, sorted(known))
    assert claims, "no call has the fact that the row states"


def test_a_fact_that_is_not_stated_is_not_assumed() -> None:
    operation = dataclasses.replace(CANONICAL.operations["relu"], non_negative=None, finite=None)
    (x,) = placeholders(1)
    assert not operation.tells(operation.non_negative, {"input": x}, {x})
    assert not operation.tells(operation.finite, {"input": x}, {x})


@pytest.mark.parametrize("operation", named(each for each in OPERATIONS if each.positive is not None))
def test_results_that_are_said_to_be_positive_are(operation: Operation) -> None:
    """For operands that are known to be positive, and others that are known to be non-negative or of any sign."""
    claims = 0
    for setting in settings(operation):
        nodes = placeholders(len(setting.places))
        arguments = setting.fill(functools.partial(node_at, nodes))
        for known, signs in itertools.product(places_known(setting), repeat=2):
            if not operation.tells(operation.positive, arguments, (), at(nodes, known), at(nodes, signs)):
                continue
            claims += 1
            for result in tensors_of(call(operation, setting.fill(functools.partial(signed_at, known, signs)))):
                assert bool((result > 0).all()), (setting.name, sorted(known), sorted(signs))
    assert claims, "no call has the fact that the row states"


def at(nodes: Sequence[fx.Node], indices: frozenset[int]) -> frozenset[fx.Node]:
    return frozenset(nodes[index] for index in indices)


def signed_at(known: frozenset[int], signs: frozenset[int], index: int, place: Place) -> Tensor:
    """Values that are positive, not negative, or of any sign."""
    return positive(place, index) if index in known else non_negative_at(signs, index, place)


@pytest.mark.parametrize("operation", named(each for each in OPERATIONS if each.finite is not None))
def test_results_that_are_said_to_be_finite_are(operation: Operation) -> None:
    """Also where an operand of which it is not known is infinite, or not a number."""
    claims = 0
    for setting in settings(operation):
        nodes = placeholders(len(setting.places))
        arguments = setting.fill(functools.partial(node_at, nodes))
        (constant,) = placeholders(1)
        arguments = tree_map_only(Tensor, functools.partial(node_for, constant), dict(arguments))
        for known in places_known(setting):
            finite = {constant, *(nodes[index] for index in known)}
            is_finite = operation.tells(operation.finite, arguments, finite)
            if not is_finite and not operation.tells(operation.finite, arguments, finite, at(nodes, known)):
                continue
            claims += 1
            for kind in (mixed, non_negative) if is_finite else (positive,):
                values = setting.fill(functools.partial(finite_at, known, kind))
                for result in tensors_of(call(operation, values)):
                    assert bool(result.isfinite().all()), (setting.name, sorted(known))
    assert claims, "no call has the fact that the row states"


def positive(place: Place, index: int) -> Tensor:
    return non_negative(place, index) + 0.1


def not_finite(place: Any, index: int) -> Tensor:
    values = mixed(place, index)
    values.view(-1)[::2] = torch.inf
    return values


@pytest.mark.parametrize("operation", named(each for each in OPERATIONS if each.keeps_elements))
def test_no_element_is_dropped_where_every_element_is_said_to_be_kept(operation: Operation) -> None:
    count = 0
    for setting in settings(operation):
        for _, relevance in relevance_of(operation, PassThrough(), setting, "mixed", supported=False):
            assert bool((relevance != 0).all()), setting.name
            count += 1
    assert count


def shares_memory(result: Any, arguments: Any) -> bool:
    def storages(value: Any) -> set[int]:
        values = list(value.values()) if isinstance(value, dict) else value
        return {each.untyped_storage().data_ptr() for each in tensors_of(values) if each.numel()}

    return not storages(result).isdisjoint(storages(arguments))


@pytest.mark.parametrize("operation", named(iter(OPERATIONS)))
def test_memory(operation: Operation) -> None:
    """What is said to allocate never shares memory with an argument, and what is not said to does in some call."""
    found = False
    for sample in samples(operation):
        arguments = dict(sample.arguments)
        shared = shares_memory(call(operation, arguments), list(arguments.values()))
        assert not (shared and operation.allocates), sample.name
        found |= shared
    assert operation.allocates or found or operation.name in NEVER_SHARES_HERE


# Whether they share depends on the device, on the type of the operand, which is float64 here, or on the attribute.
NEVER_SHARES_HERE = set(
    "channel_shuffle float half bfloat16 cfloat chalf getattr long int short char byte bool".split()
)


def overlaps(tensor: Tensor) -> bool:
    """Whether elements share memory with each other."""
    places = torch.zeros(tensor.shape, dtype=torch.long)
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        places += (torch.arange(size) * stride).reshape(-1, *[1] * (tensor.dim() - dim - 1))
    return len(places.unique()) < places.numel()


@pytest.mark.parametrize("operation", named(iter(OPERATIONS)))
def test_elements_share_memory_with_each_other_where_that_is_said(operation: Operation) -> None:
    """In some call of an operation that says so, and in none of the others that may return views."""
    found = False
    for sample in samples(operation):
        arguments = dict(sample.arguments)
        result = call(operation, arguments)
        if shares_memory(result, list(arguments.values())):
            found |= any(map(overlaps, tensors_of(result)))
    assert found == operation.overlaps


@pytest.mark.parametrize("operation", named(each for each in OPERATIONS if each.in_place is not None))
def test_in_place_forms(operation: Operation) -> None:
    for sample in samples(operation):
        arguments = [value.clone() for value in sample.arguments.values() if isinstance(value, Tensor)]
        if len(arguments) != len(operation.operands) or len({each.shape for each in arguments}) > 1:
            continue
        expected, memory = operation.function(*arguments), arguments[0].data_ptr()
        assert operation.in_place is not None
        result = operation.in_place(*arguments)
        assert torch.equal(result, expected) and result.data_ptr() == memory


@pytest.mark.parametrize("operation", named(each for each in OPERATIONS if each.moves))
def test_what_moves_consists_of_elements_and_fills(operation: Operation) -> None:
    for sample in samples(operation):
        for result in tensors_of(call(operation, sample.arguments)):
            if not result.is_floating_point():
                continue
            operands = [each for name in operation.operands for each in tensors_of([sample.arguments[name]])]
            operands += [each for each in sample.arguments.values() if isinstance(each, Tensor) and each.dim() == 0]
            numbers = [value for value in sample.arguments.values() if isinstance(value, int | float)]
            numbers += [torch.finfo(result.dtype).max, torch.finfo(result.dtype).min, 0.0]
            known = [each.reshape(-1).to(result.dtype) for each in operands]
            known.append(torch.tensor(numbers, dtype=torch.float64).to(result.dtype))
            finite = result[~result.isnan()]
            assert bool(torch.isin(finite, torch.cat(known)).all()), sample.name


def relevance_of(operation: Operation, rule: Rule, setting: Setting, kind: str, supported: bool) -> Iterator[Any]:
    """Each operand of a call with its relevance; where the result is not positive none starts, if ``supported``."""
    values = [KINDS[kind](place, index) for index, place in enumerate(setting.places)]
    outputs = tensors_of(call(operation, setting.fill(lambda index, _: values[index])))
    for which, output in enumerate(outputs):
        if not (output.is_floating_point() or output.is_complex()):
            continue
        generator = torch.Generator().manual_seed(which)
        shown = torch.view_as_real(output.resolve_conj()) if output.is_complex() else output
        seed = torch.randn(shown.shape, generator=generator, dtype=torch.float64).to(shown.dtype)
        seed = seed.masked_fill(~(shown > 0), 0.0) if supported else seed
        for index, x in enumerate(values):
            result = which if operation.multiple_results else None
            program = one_call(operation, rule, setting, values, index, result, output.is_complex())
            if program is not None:
                yield x, program(x, None, seed)


def one_call(
    operation: Operation,
    rule: Rule,
    setting: Setting,
    values: list[Tensor],
    index: int,
    which: int | None,
    is_complex: bool,
) -> fx.GraphModule | None:
    """The program that explains one operand of a single canonical call; None for one that receives no relevance."""
    graph, constants = fx.Graph(), nn.Module()
    x = graph.placeholder("x")

    def constant(name: str, value: Tensor) -> fx.Node:
        constants.register_buffer(name, value)
        return graph.get_attr(f"{CONSTANTS}.{name}")

    arguments = setting.fill(lambda at, _: x if at == index else constant(f"value_{at}", values[at]))
    if x not in operation.operands_among(arguments):
        return None
    count = itertools.count()
    arguments = tree_map_only(Tensor, lambda value: constant(f"other_{next(count)}", value), dict(arguments))
    args, kwargs = operation.call(arguments)
    made = graph.call_function(operation.function, args, kwargs)
    result = made if which is None else graph.call_function(getitem, (made, which))
    if is_complex:
        result = graph.call_function(torch.view_as_real, (graph.call_function(torch.resolve_conj, (result,)),))
    graph.output(result)
    preset = Preset("one call", (Pair(lambda node: node.target is operation.function, rule, "test"),))
    options = Options(preset, examples=(InputSpec.of(values[index]),))
    program = Program(on_live_model(nn.Module(), graph, constants), CANONICAL, options)
    run_passes(program, pipeline.explanation(Optimizations.none()).all)
    program.graph_module.recompile()
    return program.graph_module


FOLLOWED = [
    pytest.param(operation, rule, id=f"{operation.name}-{type(rule).__name__}")
    for operation in OPERATIONS
    if operation.keeps_support
    for rule in (PassThrough(), WinnerTakesAll())
    if (how := implementation(operation, rule)) is not None and how.follows
]


@pytest.mark.parametrize(("operation", "rule"), FOLLOWED)
def test_what_keeps_support_passes_nothing_to_what_is_not_positive(operation: Operation, rule: Rule) -> None:
    count = 0
    for setting in settings(operation):
        if not operation.tells(operation.keeps_support, setting.arguments):
            continue
        for kind in KINDS:
            for x, relevance in relevance_of(operation, rule, setting, kind, supported=True):
                assert not bool(relevance[~(x > 0)].any()), (setting.name, kind)
                count += 1
    assert count


def claims_to_vanish() -> Iterator[Any]:
    for operation in OPERATIONS:
        for rule in RULES.get(operation.family, {}):
            given = rule() if rule not in (fxlrp.rules.ZBox,) else rule(-1, 1)
            how = implementation(operation, given)
            # Rules that have the implementation of LRP-epsilon itself repeat it.
            is_epsilons = rule is not Epsilon and how is implementation(operation, Epsilon())
            if how is not None and how.vanishes and not is_epsilons:
                yield pytest.param(operation, given, id=f"{operation.name}-{rule.__name__}")


@pytest.mark.parametrize(("operation", "rule"), list(one_in(4, claims_to_vanish())))
def test_contributions_that_are_said_to_vanish_with_the_operand_do(operation: Operation, rule: Rule) -> None:
    count = 0
    derived = operation.family in (Family.TRANSFORM, Family.SELECTION, Family.FUNCTION, Family.MATRIX_FUNCTION)
    # Derived steps take long to compile, and have one mechanism.
    for setting in settings(operation)[: 2 if derived else None]:
        if setting.arguments.get("accumulate") is False:
            continue  # an assignment
        for kind in list(KINDS)[: 1 if derived else None]:
            for x, relevance in relevance_of(operation, rule, setting, kind, supported=False):
                # Real and imaginary parts each have relevance.
                x, relevance = (torch.view_as_real(each) if each.is_complex() else each for each in (x, relevance))
                assert not bool(relevance[x == 0].any()), (setting.name, kind)
                count += 1
    assert count


def value_at(values: list[Tensor], index: int, place: Place) -> Tensor:
    return values[index]


def claims_to_be_by_rows() -> Iterator[Any]:
    """Steps of derivatives are derived from the operation itself, and take long: two families stand for them."""
    for operation in (each for each in OPERATIONS if each.rowwise):
        for rule in (each for each in RULES.get(operation.family, {}) if each.rowwise):
            is_derived = rule.differentiates and operation.family not in (Family.LINEAR, Family.NORMALIZATION)
            if is_derived or (rule is PassThrough and operation.family is Family.LINEAR):
                continue  # which needs sizes that are equal
            if implementation(operation, rule()) is not None:
                yield pytest.param(operation, rule(), id=f"{operation.name}-{rule.__name__}")


@pytest.mark.parametrize(("operation", "rule"), list(claims_to_be_by_rows()))
def test_relevance_of_rows_that_is_said_to_be_separate_is(operation: Operation, rule: Rule) -> None:
    """A change of the first row of the values and of the relevance changes only the first row of its relevance."""
    count = 0
    for setting in settings(operation):
        values = [mixed(place, index) for index, place in enumerate(setting.places)]
        arguments = setting.fill(functools.partial(value_at, values))
        (output,) = tensors_of(call(operation, arguments))
        if not operation.tells(operation.rowwise, arguments) or output.dim() < 2 or output.is_complex():
            continue
        seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(3), dtype=output.dtype)
        others = [with_another_first_row(each) if each.shape[:-1] == seed.shape[:-1] else each for each in values]
        for index, (x, other) in enumerate(zip(values, others, strict=True)):
            if x.shape[:-1] != seed.shape[:-1]:
                continue
            programs = [one_call(operation, rule, setting, each, index, None, False) for each in (values, others)]
            if programs[0] is None or programs[1] is None:
                continue
            rows = programs[0](x, None, seed).flatten(0, -2)
            other_rows = programs[1](other, None, with_another_first_row(seed)).flatten(0, -2)
            torch.testing.assert_close(rows[1:], other_rows[1:], equal_nan=True)
            count += 1
    assert count, "no call has the fact that the row and the rule state"


def with_another_first_row(x: Tensor) -> Tensor:
    rows = x.clone().flatten(0, -2)
    rows[0] = rows[0] * 0.5 + 0.25
    return rows.reshape(x.shape)


def test_statistics_are_not_said_to_vanish() -> None:
    """A value of zero has a share in the variance, and in the number of values that are not zero it has none."""
    for name in ("var", "std", "vector_norm"):
        how = implementation(CANONICAL.operations[name], Epsilon())
        assert how is not None and not how.vanishes


@pytest.mark.parametrize("operation", named(each for each in OPERATIONS if each.keeps_dimensions))
def test_what_keeps_dimensions_has_those_of_its_first_operand(operation: Operation) -> None:
    """A value that varies along one dimension alone varies along the same dimension of the result."""
    count = 0
    for sample in samples(operation):
        (first, *_) = tensors_of(list(sample.arguments.values()))
        assert call(operation, sample.arguments).dim() == first.dim(), sample.name
        for dim in (each for each in range(first.dim()) if first.shape[each] > 1):

            def ramp(x: Tensor, dim: int = dim) -> Tensor:
                along = torch.arange(1.0, x.shape[dim] + 1, dtype=x.dtype)
                return along.reshape([-1 if each == dim else 1 for each in range(x.dim())]).expand(x.shape).clone()

            arguments = tree_map_only(Tensor, ramp, dict(sample.arguments))
            assert bool(call(operation, arguments).diff(dim=dim).any()), (sample.name, dim)
            count += 1
    assert count


@pytest.mark.parametrize("operation", named(each for each in OPERATIONS if each.makes_conditions))
def test_what_makes_conditions_does_so_of_every_type(operation: Operation) -> None:
    for sample in samples(operation):
        for dtype in (torch.float64, torch.int64, torch.bool):
            arguments = tree_map_only(Tensor, functools.partial(Tensor.to, dtype=dtype), dict(sample.arguments))
            assert call(operation, arguments).dtype == torch.bool, sample.name


def test_families_without_facts() -> None:
    """User-defined operations state nothing, so nothing is assumed of them."""
    plain = Operation("plain", Family.CUSTOM, torch.erf, {})
    assert not (plain.allocates or plain.moves or plain.neutral or plain.keeps_support or plain.in_place)
    assert plain.non_negative is None and plain.token_operand is None and plain.mask_operand is None


@pytest.mark.parametrize("operation", named(each for each in OPERATIONS if each.arranges))
def test_what_arranges_takes_elements_of_its_first_operand_from_the_same_positions(operation: Operation) -> None:
    """The positions are found by numbering the elements; other values are then found at the same ones."""
    count = 0
    for setting in settings(operation):
        if not setting.places:
            continue

        def numbered(index: int, place: Place) -> Tensor:
            first = mixed(place, index)
            return torch.arange(first.numel(), dtype=torch.float64).reshape(first.shape) if index == 0 else first

        values = setting.fill(lambda index, place: mixed(place, index))
        if any(each.is_complex() for each in tensors_of(list(values.values()))):
            continue
        positions = call(operation, setting.fill(numbered))
        first = next(each for each in tensors_of(list(values.values())))
        for result, where in zip(tensors_of(call(operation, values)), tensors_of(positions), strict=True):
            assert torch.equal(result, first.reshape(-1)[where.long()]), setting.name
            count += 1
    assert count
