"""Models that map a function over models or samples by ``torch.vmap``."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

import fxlrp
from oracles import One, assert_relevance, random

WEIGHTS = random(3, 4, 5), random(3, 5, 2, seed=1)


class Ensemble(nn.Module):
    """Several networks in one call, as in the tutorial of PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.members = [nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double() for _ in range(3)]
        parameters, _ = stack_module_state(self.members)
        self.stacked = nn.ParameterList(each.detach() for each in parameters.values())
        self.names = tuple(parameters)
        self.base = [copy.deepcopy(self.members[0]).to("meta")]

    def forward(self, x: Tensor) -> Tensor:
        def call(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            out: Tensor = functional_call(self.base[0], parameters, (x,))
            return out

        outputs: Tensor = torch.vmap(call, in_dims=(0, None))(dict(zip(self.names, self.stacked, strict=True)), x)
        return outputs.mean(0)


def over_weights(x: Tensor) -> Tensor:
    outputs: Tensor = torch.vmap(lambda first, second: torch.relu(x @ first) @ second)(*WEIGHTS)
    return outputs.mean(0)


def over_samples(x: Tensor) -> Tensor:
    out: Tensor = torch.vmap(lambda row: torch.softmax(row, 0) * row.cumsum(0))(x)
    return out


@pytest.mark.parametrize("function", [over_weights, over_samples, Ensemble()], ids=["weights", "samples", "ensemble"])
def test_the_gradient_is_that_of_autograd(function: Callable[[Tensor], Tensor]) -> None:
    x = random(2, 4, seed=3).requires_grad_()
    (expected,) = torch.autograd.grad(function(x)[:, 1].sum(), x)
    explain = fxlrp.compile(One(function).eval(), "gradient", example_inputs=x.detach())
    assert_relevance(explain(x.detach(), target=1), x.detach() * expected, 1e-10)


def test_an_ensemble_is_its_members() -> None:
    model = Ensemble().eval()

    def written_out(x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in model.members]).mean(0)

    x = random(5, 4, seed=3)
    found, expected = (
        fxlrp.compile(each, fxlrp.presets.epsilon(1e-12), example_inputs=x[:2])(x, target=0)
        for each in (model, Written(written_out, model.members).eval())
    )
    assert_relevance(found, expected, 1e-8)


class Written(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor], members: list[nn.Sequential]) -> None:
        super().__init__()
        self.function, self.members = function, nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)
