"""A model whose lines are known, and what capturing may leave on a model."""

from typing import Any

import torch
from torch import Tensor, fx, nn


class Unchanged:
    """Law 1 around a piece of code: attributes, tensors and their bits, hooks and flags of every module."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        for path, module in self.model.named_modules():
            facts[path] = (
                id(module),
                type(module),
                list(vars(module)),
                {key: list(value) for key, value in vars(module).items() if isinstance(value, dict)},
                {key: id(value) for key, value in vars(module).items() if not isinstance(value, dict)},
                {key: id(value) for key, value in module._parameters.items()},
            )
        return facts

    def __enter__(self) -> None:
        self.before = self.facts()
        self.state = {name: (tensor, tensor._version, tensor.clone()) for name, tensor in self.tensors()}

    def tensors(self) -> list[tuple[str, Tensor]]:
        return list(self.model.state_dict(keep_vars=True).items())

    def __exit__(self, kind: type | None, *_: Any) -> None:
        if kind is not None:
            return
        assert self.facts() == self.before
        after = dict(self.tensors())
        assert after.keys() == self.state.keys()
        for name, (tensor, version, value) in self.state.items():
            assert after[name] is tensor and tensor._version == version, name
            assert torch.equal(bits(tensor), bits(value)), name


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)


def proxies_in(value: Any, depth: int = 0) -> bool:
    if isinstance(value, fx.Proxy | fx.Node):
        return True
    if depth > 6:
        return False
    if isinstance(value, dict):
        return any(proxies_in(item, depth + 1) for item in [*value.keys(), *value.values()])
    if isinstance(value, list | tuple | set | frozenset):
        return any(proxies_in(item, depth + 1) for item in value)
    if isinstance(value, nn.Module):
        return any(proxies_in(vars(module), depth + 1) for module in value.modules())
    return hasattr(value, "__dict__") and not isinstance(value, type | Tensor) and proxies_in(vars(value), depth + 1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.sigmoid(self.gate(x))  # here: gate
        return x * weight  # here: product


class Stacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Attention(), Attention()])
        self.act = nn.ReLU()
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 3))

    def helper(self, x: Tensor) -> Tensor:
        return x + 1  # here: helper

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.act(block(x))  # here: block
        return self.head(self.helper(x))  # here: head
