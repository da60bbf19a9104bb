"""What must hold of the explanation of every model."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import SymbolicTraceError
from fxlrp.targets import each
from prover.models import CLASSES, Program
from prover.parts import Part

EPSILON = 0.01
ROUNDING = 1e-7
RULES = ("epsilon", "epsilon_plus", "epsilon_alpha2_beta1", "attnlrp", "cplrp")


@dataclass(frozen=True)
class Check:
    """A check of a program.

    Args:
        run: Fails if it does not hold.
        fits: Tells whether a program may contain a part.
        cost: How many of its examples are worth one of a cheap check.
    """

    run: Callable[[Program], None]
    fits: Callable[[Part], bool] = lambda part: True
    cost: int = 1


def rules_of(program: Program) -> fxlrp.presets.Preset:
    """One of the presets, with an epsilon that keeps rounding errors small."""
    name = RULES[program.seed % len(RULES)]
    preset: fxlrp.presets.Preset = getattr(fxlrp.presets, name)(EPSILON)
    return preset


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Check that relevance is equal relative to its largest element, or to rounding errors of values of size one."""
    assert bool(expected.isfinite().all()), "not finite"
    error = float((found - expected).abs().max()) / max(float(expected.abs().max()), ROUNDING)
    assert error <= tolerance, f"the relative difference is {error:.3g}"


def optimized_is_plain(program: Program) -> None:
    model, x = program.build()
    optimized, plain = (
        fxlrp.compile(model, rules_of(program), example_inputs=x, optimize=each) for each in (True, False)
    )
    for target in (1, None):
        assert_close(optimized(x, target=target), plain(x, target=target), 1e-8)


def both_front_ends_agree(program: Program) -> None:
    """Symbolic tracing refuses some changes in place, which the other front end follows."""
    model, x = program.build()
    exported = fxlrp.compile(model, rules_of(program), example_inputs=x, capture="export")
    try:
        symbolic = fxlrp.compile(model, rules_of(program), example_inputs=x, capture="symbolic")
    except SymbolicTraceError as error:
        assert "an in-place change" in str(error)
        return
    assert_close(symbolic(x, target=1), exported(x, target=1), 1e-8)


def lrp_0_is_gradient_times_input(program: Program) -> None:
    model, x = program.build()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    explain = fxlrp.compile(model, fxlrp.presets.epsilon(0.0), example_inputs=x)
    assert_close(explain(x, target=1), x * gradient, 1e-7)


def a_batch_is_its_samples(program: Program) -> None:
    model, x = program.build()
    explain = fxlrp.compile(model, rules_of(program), example_inputs=x)
    one_by_one = torch.cat([explain(sample, target=1) for sample in x.split(1)])
    assert_close(explain(x, target=1), one_by_one, 1e-8)


def backward_is_the_explanation(program: Program) -> None:
    model, x = program.build()
    expected = fxlrp.compile(model, rules_of(program), example_inputs=x)(x, target=1)
    leaf = x.clone().requires_grad_()
    explained = fxlrp.autograd(model, rules_of(program), example_inputs=x)
    explained(leaf)[:, 1].sum().backward()
    assert leaf.grad is not None
    assert_close(leaf.grad, expected, 1e-8)


def relevance_is_conserved(program: Program) -> None:
    model, x = program.build()
    _without_biases(model)
    relevance = fxlrp.compile(model, fxlrp.presets.cplrp(1e-12), example_inputs=x)(x, target=1)
    total, logits = relevance.flatten(1).sum(1), model(x)[:, 1].detach()
    size = relevance.abs().flatten(1).sum(1) + logits.abs()
    assert bool(((total - logits).abs() <= 1e-6 * size.clamp(min=ROUNDING)).all()), f"{total} is not {logits}"


def extreme_inputs_have_finite_relevance(program: Program) -> None:
    model, x = program.build()
    explain = fxlrp.compile(model.float(), rules_of(program), example_inputs=x.float())
    for extreme in (torch.zeros_like(x), x * 1e4, x * 1e-20):
        given = extreme.float()
        if bool(model(given).isfinite().all()):
            assert bool(explain(given, target=1).isfinite().all()), "relevance is not finite"


def questions_are_those_one_at_a_time(program: Program) -> None:
    model, x = program.build()
    explain = fxlrp.compile(model, rules_of(program), example_inputs=x)
    together = explain(x, target=each(range(CLASSES)))
    for target in range(CLASSES):
        assert_close(together[target], explain(x, target=target), 1e-8)
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
        assert_close(relevance, explain(x, target=1, at=name), 1e-8)


def _without_biases(model: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.zero_()


def _is_differentiated(part: Part) -> bool:
    """Autograd does not differentiate what has read a value that was changed in place later."""
    return part.homogeneous and not part.changes


CHECKS: Mapping[str, Check] = {
    "optimized = plain": Check(optimized_is_plain),
    "symbolic = export": Check(both_front_ends_agree, cost=6),
    "LRP-0 = gradient x input": Check(lrp_0_is_gradient_times_input, _is_differentiated),
    "batch = samples": Check(a_batch_is_its_samples),
    "backward = explanation": Check(backward_is_the_explanation),
    "conservation": Check(relevance_is_conserved, lambda part: part.conserves),
    "finite": Check(extreme_inputs_have_finite_relevance),
    "questions = one at a time": Check(questions_are_those_one_at_a_time, cost=2),
}
