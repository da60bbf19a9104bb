"""Hooks are part of what is traced, and stay."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import assert_is_gradient, lrp0
from oracles import random, randomize
from traces import Unchanged, proxies_in


def hooked() -> nn.Module:
    return randomize(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)))


def double_output(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return 2 * output


def negate_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (-args[0],)


def scale_by_keyword(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return (args[0] * 0.5,), kwargs


HOOKS: dict[str, Callable[[Any], Any]] = {
    "forward": lambda m: m[0].register_forward_hook(double_output),
    "pre": lambda m: m[2].register_forward_pre_hook(negate_input),
    "pre_with_kwargs": lambda m: m[2].register_forward_pre_hook(scale_by_keyword, with_kwargs=True),
    "always_called": lambda m: m[0].register_forward_hook(double_output, always_call=True),
    "prepended": lambda m: m[1].register_forward_hook(double_output, prepend=True),
    "on_the_model": lambda m: m.register_forward_hook(double_output),
    "before_the_model": lambda m: m.register_forward_pre_hook(negate_input),
    "twice": lambda m: (m[0].register_forward_hook(double_output), m[0].register_forward_hook(double_output)),
}


@pytest.mark.parametrize("place", HOOKS)
def test_forward_hooks_are_part_of_what_is_traced_and_stay(place: str) -> None:
    plain, model, x = hooked(), hooked(), random(2, 4)
    HOOKS[place](model)
    with Unchanged(model):
        explain = lrp0(model.eval())
        explain(x)
    assert not torch.equal(model(x), plain(x))  # the hook does change something, and still does
    assert_is_gradient(explain(x), model, x)


def test_hooks_that_only_look_change_nothing() -> None:
    seen: list[type] = []
    model, x = hooked(), random(2, 4)
    model.get_submodule("1").register_forward_hook(lambda module, args, output: seen.append(type(output)))
    model.get_submodule("0").register_full_backward_hook(lambda module, grad_input, grad_output: None)
    with Unchanged(model):
        explain = lrp0(model.eval())
        seen.clear()
        explain(x)
    assert seen == []  # the product has no hooks
    assert_is_gradient(explain(x), model, x)


def test_a_hook_method_that_stores_on_its_module_leaves_no_proxy() -> None:
    class Recorder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.activations: dict[str, Tensor] = {}
            self.inner.register_forward_hook(self.record)

        def record(self, module: nn.Module, args: Any, output: Tensor) -> None:
            self.activations["inner"] = output

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.inner(x))

    model, x = randomize(Recorder()), random(2, 4)
    with Unchanged(model):
        explain = lrp0(model.eval())
        explain(x)
    assert not proxies_in(model) and model.activations == {}
    assert_is_gradient(explain(x), model, x)
