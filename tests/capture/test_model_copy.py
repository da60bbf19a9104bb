"""The copy of a model that is traced: it shares tensors, and nothing else that it could change."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from fxlrp.capture.model_copy import copy_with_shared_tensors


class Caching(nn.Module):
    """A module whose forward stores values on it, in containers that are empty before, and that two modules share."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.cache: dict[str, Any] = {}
        self.seen: set[int] = set()
        self.ordered: OrderedDict[str, Any] = OrderedDict()
        self.lists: list[Any] = []
        self.held = {"of it": torch.ones(2)}
        self.child = nn.Identity()
        vars(self.child)["cache"] = self.cache


def test_what_a_copy_stores_is_not_on_the_model() -> None:
    model = Caching()
    copied = copy_with_shared_tensors(model)
    assert isinstance(copied, Caching)
    copied.cache["a"], copied.ordered["b"] = 1, 2
    copied.seen.add(3)
    copied.lists.append(4)
    copied.linear.register_forward_hook(lambda *_: None)
    assert (model.cache, model.seen, model.ordered, model.lists) == ({}, set(), OrderedDict(), [])
    assert not model.linear._forward_hooks
    assert type(copied.ordered) is OrderedDict


def test_a_copy_shares_tensors_and_keeps_what_modules_share() -> None:
    model = Caching()
    copied = copy_with_shared_tensors(model)
    assert isinstance(copied, Caching)
    assert copied.linear is not model.linear and copied.linear.weight is model.linear.weight
    assert copied.held is not model.held and copied.held["of it"] is model.held["of it"]
    assert vars(copied.child)["cache"] is copied.cache
