"""What must hold of the explanation of every model."""

from __future__ import annotations

import contextlib
import copy
import functools
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fxlrp
from fxlrp import rules
from fxlrp.errors import CaptureError, LostInputError, SymbolicTraceError, UnsupportedOpError
from fxlrp.operation import Family
from fxlrp.program import annotation
from fxlrp.rules.preset import Preset
from fxlrp.targets import each
from fxlrp.vocabulary import CANONICAL
from prover.models import CLASSES, KINDS, LARGEST, Model, Program
from prover.oracle import Book, NotDefinedError, Recorder, relevance_of
from prover.parts import SIZES, Part
from prover.rows import Called, numbers, zero_biases

EPSILON = 0.01
# Relevance below it is what rounding leaves of terms of size one.
ROUNDING = 1e-6
GAMMA = rules.Gamma(0.25)
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 3e-1}


class WithGradients(Preset):
    """A preset in which functions of matrices, for which the field has no rule, pass on gradients."""

    def default(self, family: Family) -> rules.Rule | None:
        return rules.Gradient() if family is Family.MATRIX_FUNCTION else super().default(family)


def preset(name: str, *pairs: tuple[str, rules.Rule], **options: Any) -> Preset:
    """A preset with an epsilon that keeps rounding errors small."""
    made: Preset = getattr(fxlrp.presets, name)(**{"epsilon": EPSILON, **options}).override(pairs)
    return WithGradients(made.name, made.pairs, made.epsilon, made.starts_with_one)


def presets_with(epsilon: float) -> Sequence[Preset]:
    """The presets that are tried. Gamma is for dense layers: each model has one, and pairs must select something."""
    dense, given = ("linear", GAMMA), {"epsilon": epsilon}
    return (
        preset("epsilon", **given),
        preset("epsilon_plus", **given),
        preset("epsilon_alpha2_beta1", **given),
        preset("attnlrp", **given),
        preset("cplrp", **given),
        preset("epsilon_gamma_box", dense, low=-4.0, high=4.0, **given),
        preset("excitation_backprop", **given),
        preset("epsilon_plus_flat", **given),
        preset("epsilon", dense, **given),
    )


RULES = presets_with(EPSILON)
# Where a stabilizer must not count, however small the values are, and how far it does.
SMALL, BY_SMALL = presets_with(1e-6), 1e-2


@dataclass(frozen=True)
class Check:
    """A check of a program.

    Args:
        run: Fails if it does not hold; returns the explainers that were made.
        fits: Tells whether a program may contain a part.
        kinds: The kinds of inputs that it may have.
        cost: How many of its examples are worth one of a cheap check.
    """

    run: Callable[[Program], list[fxlrp.Explainer]]
    fits: Callable[[Part], bool] = lambda part: True
    kinds: Sequence[str] = KINDS
    cost: int = 1


class LeftOutError(Exception):
    """A check does not say what must hold of a program."""


def assume(condition: bool) -> None:
    """Leave a program out unless a condition holds."""
    if not condition:
        raise LeftOutError


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Leave out what fxlrp refuses, with an error of its own that says why."""
    try:
        yield
    except LostInputError as error:
        raise LeftOutError from error
    except (UnsupportedOpError, CaptureError) as error:
        assume(not any(reason in str(error) for reason in REFUSED))
        raise


REFUSED = (
    # A kernel has no derivative that could be traced.
    "cannot be derived",
    # A derived step is behind a value whose size depends on values, as that of an index by a condition.
    "is derived for tensors of known sizes, but those of",
    # torch.export does not follow a size that depends on values, as that of the combinations of elements.
    "Pending unbacked symbols",
    # Nothing of the input is left, as in an index.
    "cannot carry relevance",
    "no relevance can flow",
    # A change of a value that other values share.
    "in-place",
    "in place",
    # torch.export does not follow the checks of the values of a loss.
    "Could not guard on data-dependent expression",
)


def rules_of(program: Program) -> Preset:
    """One of the presets."""
    return RULES[program.seed % len(RULES)]


def built(program: Program) -> tuple[Model, Tensor]:
    """The model and its inputs, if its values are of moderate size."""
    model, x = program.build()
    assume(model.is_moderate(x))
    irregular = [module for step, module in zip(program.steps, model.steps, strict=True) if not _is_regular(step.part)]
    assume(not irregular or _have_moderate_gradients(irregular, model, x))
    return model, x


def _have_moderate_gradients(modules: Sequence[nn.Module], model: Model, x: Tensor) -> bool:
    """Whether autograd gives gradients that are not too large, which decompositions of some matrices do not have."""
    calls: list[tuple[nn.Module, tuple[Tensor, ...]]] = []
    hooks = [each.register_forward_pre_hook(lambda *call: calls.append(call)) for each in dict.fromkeys(modules)]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return all(_has_moderate_gradient(module, operands) for module, operands in calls)


def _has_moderate_gradient(module: nn.Module, operands: Sequence[Tensor]) -> bool:
    plain, given = module.of_rectified(operands) if isinstance(module, Called) else (module, operands)
    leaves = [each.detach().clone().requires_grad_() for each in given]
    try:
        result = plain(*leaves)
        weights = numbers(len(result), tuple(result.shape[1:]), 1)
        gradients = torch.autograd.grad(result, leaves, weights, allow_unused=True)
    except RuntimeError as error:
        # PyTorch does not differentiate condition numbers in most norms.
        if "modified by an inplace operation" in str(error):
            return True
        # Eigenvectors have an arbitrary phase.
        if "ill-defined" in str(error):
            return False
        raise
    return all(each is None or bool((each.abs() < LARGEST).all()) for each in gradients)


def compiled(model: nn.Module, preset: Preset, x: Tensor, **options: Any) -> fxlrp.Explainer:
    """The explainer, unless fxlrp refuses."""
    with refusals():
        return fxlrp.compile(model, preset, example_inputs=x, **options)


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Check that relevance is equal relative to its largest element, or to rounding errors of values of size one."""
    assert bool(expected.isfinite().all()), "not finite"
    error = _error(found, expected)
    assert error <= tolerance, f"the relative difference is {error:.3g}"


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max()) / max(float(expected.abs().max()), ROUNDING)


def optimized_is_plain(program: Program) -> list[fxlrp.Explainer]:
    """The outputs are those of the model, too."""
    model, x = built(program)
    tolerance = TOLERANCE[program.precision]
    optimized, plain = (compiled(model, rules_of(program), x, optimize=each) for each in (True, False))
    with torch.no_grad():
        output = model(x)
    relevance, found = _with_output(optimized, x)
    assert_close(found, output, tolerance)
    expected = _with_output(plain, x)[0]
    if _error(relevance, expected) > tolerance:
        # Rounding errors alone have this effect where functions are steep, as distances of equal points are.
        with _nudged(model, x) as nudged:
            assume(_error(_with_output(plain, nudged)[0], expected) < tolerance / 10)
    assert_close(relevance, expected, tolerance)
    return [optimized, plain]


@contextlib.contextmanager
def _nudged(model: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """The input with as much of a change as rounding makes; tokens as they are, with a change of the parameters."""
    if x.is_floating_point():
        yield x * _NUDGE
        return
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for each in model.parameters():
            each.mul_(_NUDGE)
    yield x
    model.load_state_dict(before)


_NUDGE = 1 + 2**-46


def _with_output(explain: fxlrp.Explainer, x: Tensor) -> tuple[Tensor, Tensor]:
    """The relevance of all outputs, each with a weight of its own, and the output of the explainer's program."""
    seen: list[Tensor] = []

    def seed(output: Tensor) -> Tensor:
        seen.append(output.clone())
        return output * torch.linspace(-0.5, 2.0, CLASSES, dtype=output.dtype)

    relevance = explain(x, seed=seed)
    assert isinstance(relevance, Tensor)
    return relevance, seen[0]


def both_front_ends_agree(program: Program) -> list[fxlrp.Explainer]:
    """Symbolic tracing refuses some changes in place, which the other front end follows."""
    model, x = built(program)
    found, tolerance = _by_both(model, x, rules_of(program)), TOLERANCE[program.precision]
    if _operations(found[0]) != _operations(found[1]):
        # torch.export writes some functions as others, which have stabilizers of their own.
        found, tolerance = _by_both(model, x, SMALL[program.seed % len(SMALL)]), max(tolerance, BY_SMALL)
    symbolic, exported = found
    assert_close(symbolic(x, target=1), exported(x, target=1), tolerance)
    return list(found)


def _by_both(model: Model, x: Tensor, chosen: Preset) -> tuple[fxlrp.Explainer, fxlrp.Explainer]:
    try:
        symbolic = compiled(model, chosen, x, capture="symbolic")
    except SymbolicTraceError as error:
        raise LeftOutError from error
    return symbolic, compiled(model, chosen, x, capture="export")


def _operations(explain: fxlrp.Explainer) -> Counter[str]:
    """How often each operation has a rule that may have a stabilizer."""
    found = ((CANONICAL.operation(node), annotation(node)) for node in explain.nodes)
    return Counter(
        operation.name
        for operation, annotated in found
        if operation is not None and annotated is not None and not isinstance(annotated.rule, rules.PassThrough)
    )


def lrp_0_is_gradient_times_input(program: Program) -> list[fxlrp.Explainer]:
    model, x = built(program)
    zero_biases(model)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    explain = compiled(model, preset("epsilon", epsilon=0.0), x)
    assert_close(explain(x, target=1), x * gradient, max(1e-7, TOLERANCE[program.precision]))
    return [explain]


def rules_are_those_of_the_book(program: Program) -> list[fxlrp.Explainer]:
    """AttnLRP or CP-LRP, without a stabilizer."""
    model, x = built(program)
    name = ("attnlrp", "cplrp")[program.seed % 2]
    try:
        expected = relevance_of(model, x, 1, Book(weights_are_constant=name == "cplrp"))
    except NotDefinedError as error:
        # Parts for which it is defined can meet in a way for which it is not, such as a product of a value with itself.
        raise LeftOutError from error
    # Without a stabilizer, relevance that arrives at a zero is divided by what rounding left of it.
    with torch.no_grad(), Recorder() as recorder:
        model(x)
    assume(not any(_is_rounded_zero(result) for call in recorder.calls for result in call.results))
    explain = compiled(model, preset(name, epsilon=0.0), x)
    assert_close(explain(x, target=1), expected, 1e-6)
    return [explain]


def _is_rounded_zero(value: Tensor) -> bool:
    """Whether a value has elements that are not zero, but for rounding would be."""
    return bool(((value != 0) & (value.abs() < 1e-12)).any())


def a_batch_is_its_samples(program: Program) -> list[fxlrp.Explainer]:
    model, x = built(program)
    explain = compiled(model, rules_of(program), x)
    one_by_one = torch.cat([explain(sample, target=1) for sample in x.split(1)])
    assert_close(explain(x, target=1), one_by_one, TOLERANCE[program.precision])
    return [explain]


def backward_is_the_explanation(program: Program) -> list[fxlrp.Explainer]:
    model, x = built(program)
    explain = compiled(model, rules_of(program), x)
    leaf = x.clone().requires_grad_()
    try:
        model(leaf)
    except RuntimeError as error:
        # PyTorch changes some views in place only where it computes no gradient.
        raise LeftOutError from error
    explained = fxlrp.autograd(model, rules_of(program), example_inputs=x)
    explained(leaf)[:, 1].sum().backward()
    # Autograd does not reach an input that has no relevance, such as that of a softmax under CP-LRP.
    found = torch.zeros_like(x) if leaf.grad is None else leaf.grad
    assert_close(found, explain(x, target=1), TOLERANCE[program.precision])
    return [explain]


def relevance_is_conserved(program: Program) -> list[fxlrp.Explainer]:
    model, x = built(program)
    zero_biases(model)
    explain = compiled(model, preset("cplrp", epsilon=1e-12), x)
    with torch.no_grad():  # in which PyTorch changes more views in place
        logits = model(x)[:, 1]
    relevance = explain(x, target=1).flatten(1)
    total, size = relevance.sum(1), relevance.abs().sum(1) + logits.abs()
    if program.mixes:
        total, logits, size = total.sum(), logits.sum(), size.sum()
    assert bool(((total - logits).abs() <= 1e-6 * size.clamp(min=ROUNDING)).all()), f"{total} is not {logits}"
    return [explain]


class Scores(TorchDispatchMode):
    """Whether ATen's kernel of attention saw scores whose rounding errors exceed one.

    Its backward kernel multiplies queries and keys again, and overflows where the products differ by more, as PyTorch's
    gradient does.
    """

    are_rounded: bool = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
            sums = result[1]
            self.are_rounded |= bool((sums.abs() * torch.finfo(sums.dtype).eps > 1).any())
        return result


def extreme_inputs_have_finite_relevance(program: Program) -> list[fxlrp.Explainer]:
    """As long as all values are finite; where the scores of attention are rounded to nothing, if it is written out."""
    model, x = built(program)
    model.float()
    try:
        with torch.no_grad():
            model(x.float())
    except (RuntimeError, ValueError) as error:
        # A cast to double precision does not fit the other values.
        raise LeftOutError from error
    explain = compiled(model, rules_of(program), x.float())
    for extreme in (torch.zeros_like(x), x * 1e4, x * 1e-20):
        given = extreme.float()
        with torch.no_grad():
            is_finite = all(bool(value.isfinite().all()) for value in (*model.values(given), model(given)))
        if not is_finite:
            continue
        with Scores() as scores:
            relevance = explain(given, target=1)
        if scores.are_rounded:
            written_out = fxlrp.Optimizations(fuse_attention=False)
            relevance = compiled(model, rules_of(program), x.float(), optimize=written_out)(given, target=1)
        assert bool(relevance.isfinite().all()), "relevance is not finite"
    return [explain]


def questions_are_those_one_at_a_time(program: Program) -> list[fxlrp.Explainer]:
    model, x = built(program)
    tolerance = TOLERANCE[program.precision]
    explain = compiled(model, rules_of(program), x)
    together = explain(x, target=each(range(CLASSES)))
    for target in range(CLASSES):
        assert_close(together[target], explain(x, target=target), tolerance)
    passed = {each.node for each in explain.balance(x, target=1).nodes}
    # A node with several results has no relevance of its own.
    nodes = [
        node.name
        for node in explain.nodes
        if node.name in passed and not any(user.target is operator.getitem for user in node.users)
    ]
    chosen = nodes[:: max(1, len(nodes) // 3)]
    places = explain(x, target=1, at=chosen)
    places = places if isinstance(places, Mapping) else dict(zip(chosen, [places], strict=True))
    for name, relevance in places.items():
        assert_close(relevance, explain(x, target=1, at=name), tolerance)
    name, relevance = list(places.items())[program.seed % len(places)]
    if not relevance.is_complex() and relevance.dim():
        _conditions_are_those_one_at_a_time(explain, x, name, relevance.shape, tolerance)
    return [explain]


def _conditions_are_those_one_at_a_time(
    explain: fxlrp.Explainer, x: Tensor, name: str, shape: torch.Size, tolerance: float
) -> None:
    """What passes three parts of a value, which together are what passes all of it."""
    number = torch.arange(shape.numel()).reshape(shape) % 3
    parts = [{name: number == part} for part in range(3)]
    together = explain(x, target=1, only=parts)
    whole = explain(x, target=1, only={name: number >= 0})
    for found, part in zip(together, parts, strict=True):
        alone = explain(x, target=1, only=part)
        assert float((found - alone).abs().max()) <= tolerance * max(float(whole.abs().max()), ROUNDING), "conditions"
    size = sum(found.abs().max() for found in together)
    error = float((together.sum(0) - whole).abs().max()) / max(float(size), ROUNDING)
    assert error <= tolerance, f"the conditions do not add up: the relative difference is {error:.3g}"


def _is_differentiated(part: Part) -> bool:
    """Autograd does not differentiate what has read a value that was changed in place later."""
    return part.homogeneous and not part.changes


def _is_regular(part: Part) -> bool:
    """Derivatives of decompositions are infinite where singular values are equal."""
    return part.operation is None or CANONICAL.operations[part.operation].family is not Family.MATRIX_FUNCTION


def _conserves(part: Part) -> bool:
    return part.conserves


def _separates(part: Part) -> bool:
    return not part.mixes


@functools.cache
def _is_in_the_book(part: Part) -> bool:
    """Whether the oracle is defined for a part."""
    if part.changes:
        return False
    operands = [numbers(2, (4, 6) if wanted is None else wanted, index) for index, wanted in enumerate(part.reads)]
    with torch.random.fork_rng(devices=[]):
        module = part.make().double().eval()
    try:
        for constant in (False, True):
            relevance_of(_WithHead(module, operands[1:]), operands[0], 0, Book(weights_are_constant=constant))
    except NotDefinedError:
        return False
    return True


class _WithHead(nn.Module):
    """A part with an output of two dimensions."""

    def __init__(self, part: nn.Module, others: Sequence[Tensor]) -> None:
        super().__init__()
        self._part, self._others = part, others

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._part(x, *(other + x.sum() for other in self._others)).reshape(len(x), -1)
        return out


REAL = tuple(SIZES)
CHECKS: Mapping[str, Check] = {
    "optimized = plain": Check(optimized_is_plain),
    "symbolic = export": Check(both_front_ends_agree, cost=6),
    "LRP-0 = gradient x input": Check(lrp_0_is_gradient_times_input, _is_differentiated, REAL),
    "AttnLRP = by the book": Check(rules_are_those_of_the_book, _is_in_the_book, REAL),
    "batch = samples": Check(a_batch_is_its_samples, _separates),
    "backward = explanation": Check(backward_is_the_explanation, kinds=REAL),
    "conservation": Check(relevance_is_conserved, _conserves),
    "finite": Check(extreme_inputs_have_finite_relevance, _is_regular, kinds=REAL),
    "questions = one at a time": Check(questions_are_those_one_at_a_time, cost=2),
}
