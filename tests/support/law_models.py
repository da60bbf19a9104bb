"""Models for the laws, and changes of them that several laws are about."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from fxlrp import presets

PRESETS = [
    pytest.param("epsilon_plus_flat", id="epsilon_plus_flat"),
    pytest.param("epsilon_alpha2_beta1", id="epsilon_alpha2_beta1"),
    pytest.param(presets.epsilon_gamma_box(-3.0, 3.0), id="epsilon_gamma_box"),
]


def residual(batch: int = 2) -> tuple[nn.Module, Tensor]:
    model, (x,) = zoo.small_net("residual", batch=batch)
    return model, x


def image_batch(batch: int, size: int) -> Tensor:
    return zoo.images(batch, size, seed=10 * batch + size)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All of a model that could change; tensors by identity, storage, version and value."""

    def of_tensor(tensor: Tensor) -> tuple[Any, ...]:
        value = tensor.detach().clone()
        return id(tensor), tensor.data_ptr(), tensor._version, tensor.requires_grad, tensor.grad, value

    state: dict[str, Any] = {"state_dict": {k: of_tensor(v) for k, v in model.state_dict(keep_vars=True).items()}}
    for path, module in model.named_modules():
        attributes = {k: v for k, v in vars(module).items() if not isinstance(v, dict)}
        hooks = {k: dict(v) for k, v in vars(module).items() if isinstance(v, dict) and "hook" in k}
        state[path] = id(module), type(module), attributes, hooks, dict(module._modules)
    return state


def assert_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    tensors, tensors_now = before.pop("state_dict"), after.pop("state_dict")
    assert tensors.keys() == tensors_now.keys()
    for name, (*facts, value) in tensors.items():
        *facts_now, value_now = tensors_now[name]
        assert facts == facts_now, name
        assert torch.equal(value, value_now), name
    assert before == after


def other_state(model: nn.Module) -> dict[str, Tensor]:
    """A state_dict of the same keys and shapes with other values."""
    other = zoo.initialise(copy.deepcopy(model), seed=5)
    zoo.calibrate(other, image_batch(8, 8) * 2 + 0.3)
    return other.state_dict()


def optimizer_step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    F.cross_entropy(model(image_batch(4, 8)), torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    model.zero_grad()


def load_state_dict(model: nn.Module) -> None:
    model.load_state_dict(other_state(model))


def replace_parameter(model: nn.Module) -> None:
    model.get_submodule("conv2").weight = nn.Parameter(model.get_parameter("conv2.weight").detach() * -0.7)


def write_through_data(model: nn.Module) -> None:
    """Does not move the parameter's version counter."""
    model.get_parameter("conv1.weight").data.mul_(-1)


PRODUCTS = ["residual", "shapes", "augmented_add", "two_inputs", "output_per_pixel", "mobilenet_v3_small"]


def product(name: str, batch: int = 2) -> tuple[nn.Module, tuple[Tensor, ...]]:
    if name in zoo.SMALL_NETS:
        return zoo.small_net(name, batch=batch)
    model, x = zoo.calibrated(name, batch=batch)
    return model, (x,)
