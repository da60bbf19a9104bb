"""Several questions at once through steps that are derived for open sizes, against gradients of the plain functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from derived_calls import Case, cases, operations
from fxlrp import presets
from fxlrp.errors import InputError
from fxlrp.targets import each
from helpers import as_tuple
from oracles import One, assert_relevance, random


def _svd(x: Tensor) -> Tensor:
    # The signs of singular vectors are arbitrary; products of both are not.
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    return torch.cat([s, torch.einsum("bij,bjk->bik", u, v).flatten(1)], 1)


def _windows(x: Tensor) -> Tensor:
    return x.as_strided((2, 4, 3), (16, 4, 1)).flatten(1)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "svd": _svd,
    "singular values": torch.linalg.svdvals,
    "pseudoinverse": lambda x: torch.linalg.pinv(x).flatten(1),
    "inverse": lambda x: torch.linalg.inv(x).flatten(1),
    "exponential": lambda x: torch.linalg.matrix_exp(x).flatten(1),
    "norms": lambda x: torch.linalg.matrix_norm(x, "nuc").unsqueeze(1),
    "strides": _windows,
}


class Applied(nn.Module):
    """A function of the input."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def forward(self, x: Tensor) -> Tensor:
        return FUNCTIONS[self._name](x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_seeds_of_derived_steps(name: str) -> None:
    """Gradient times input, of the outputs weighted by the seed over the output."""
    x = random(2, 4, 4, seed=2)
    model = Applied(name).eval()
    explain = fxlrp.compile(model, presets.gradient(), example_inputs=x)
    seeds = random(3, *model(x).shape, seed=4)
    found = explain(x, seed=each(seeds))
    assert found.shape == (3, *x.shape)
    for seed, relevance in zip(seeds, found, strict=True):
        leaf = x.clone().requires_grad_()
        output = model(leaf)
        (gradient,) = torch.autograd.grad(output, leaf, seed / output.detach())
        assert_relevance(relevance, x * gradient, 1e-9)


class Angle(nn.Module):
    """The angles of real numbers are constant, so no relevance arrives under the gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.angle(x)


def test_there_is_a_result_for_each_question_where_no_relevance_arrives() -> None:
    x = random(2, 4, seed=2)
    explain = fxlrp.compile(Angle().eval(), presets.gradient(), example_inputs=x)
    found = explain(x, target=each(range(3)))
    assert found.shape == (3, 2, 4) and not found.any()


def test_zeros_of_a_step_are_not_overwritten_by_one_question() -> None:
    """A step that makes zeros on the device of its relevance makes them once for all questions."""

    def function(x: Tensor) -> Tensor:
        coefficient = torch.triangular_solve(x, (x.tanh() / 2 + torch.eye(3)).triu()).cloned_coefficient
        return (coefficient * x.exp()).flatten().unsqueeze(0)

    x = random(3, 3, seed=1)
    gradient = [("triangular_solve", fxlrp.rules.Gradient())]
    explain = fxlrp.compile(One(function).eval(), gradient, example_inputs=x)
    together = explain(x, target=each([0, 1, 2]))
    for target in range(3):
        assert_relevance(together[target], explain(x, target=target))


def test_a_target_is_checked_where_no_relevance_arrives() -> None:
    x = random(2, 4, seed=2)
    explain = fxlrp.compile(Angle().eval(), presets.gradient(), example_inputs=x)
    with pytest.raises(InputError, match="target"):
        explain(x, target=4)


def calls() -> Iterator[Any]:
    """The calls of each operation with a derived step. That of ctc_loss cannot be derived: its kernel reads values."""
    for operation in operations():
        if operation.name != "ctc_loss":
            yield from (pytest.param(operation.name, case, id=str(case)) for case in cases(operation))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.sampled(6, "operation")
@pytest.mark.parametrize(("operation", "case"), list(calls()))
def test_seeds_of_every_derived_step(operation: str, case: Case) -> None:
    """Together as one at a time: ``torch.vmap`` has a rule for each kernel of a step, and not each of them is right."""
    model = case.model()
    inputs = model.inputs()
    explain = fxlrp.compile(model, presets.epsilon(0.01), example_inputs=inputs, capture="symbolic")
    seeds = random(3, *model(*inputs).shape, seed=5)
    together = as_tuple(explain(*inputs, seed=each(seeds)))
    for index, seed in enumerate(seeds):
        for found, alone in zip(together, as_tuple(explain(*inputs, seed=seed)), strict=True):
            assert_relevance(found[index], alone, 1e-9)
