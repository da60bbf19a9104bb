"""Arguments in every form: optional ones, containers of tensors, and outputs of which one is explained."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import CaptureError, InputError, RecipeError
from helpers import LRP0, as_tuple, lrp0, one_in
from oracles import assert_relevance, random
from zoo import gradient_times_input


class Optional(nn.Module):
    def __init__(self, branch: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.branch = nn.Linear(4, 3, bias=False), branch

    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float | None = None, **more: Any) -> Tensor:
        if self.branch and len(x) > 10**6:
            raise ValueError
        x = x if mask is None else x * mask
        out: Tensor = self.linear(x if scale is None else x * scale)
        return out


@pytest.mark.parametrize("branch", [False, True], ids=["symbolic", "export"])
def test_optional_arguments_may_be_given_later(branch: bool) -> None:
    model, x = Optional(branch).double().eval(), random(3, 4)
    mask = torch.tensor([[True, False, True, True]] * 3)
    explain = fxlrp.compile(model, LRP0)
    (plain,) = gradient_times_input(model, x, select=lambda y: y[:, 1].sum())
    (masked,) = gradient_times_input(lambda x: model(x, mask), x, select=lambda y: y[:, 1].sum())
    for _ in range(2):
        assert_relevance(explain(x, target=1), plain, 1e-12)
        assert_relevance(explain(x, None, target=1), plain, 1e-12)
        assert_relevance(explain(x, mask=None, scale=None, target=1), plain, 1e-12)
        assert_relevance(explain(x, mask, target=1), masked, 1e-12)
        assert_relevance(explain(x, mask=mask, target=1), masked, 1e-12)
        assert_relevance(explain(x, scale=-2.0, target=1), -2 * plain, 1e-12)


def test_none_as_an_example_by_position() -> None:
    class Middle(Optional):
        def forward(self, x: Tensor, mask: Tensor | None = None, shift: Tensor | None = None) -> Tensor:  # type: ignore[override]
            out: Tensor = self.linear(x if mask is None else x * mask) + shift
            return out

    model, x, shift = Middle().double().eval(), random(2, 4), random(2, 3, seed=1)
    expected = gradient_times_input(lambda x, shift: model(x, None, shift), x, shift, select=lambda y: y[:, 1].sum())
    for examples in ((x, None, shift), {"x": x, "shift": shift}):
        explain = fxlrp.compile(model, LRP0, example_inputs=examples)
        for relevance in (explain(x, None, shift, target=1), explain(x, shift=shift, target=1)):
            for ours, wanted in zip(as_tuple(relevance), expected, strict=True):
                assert_relevance(ours, wanted, 1e-12)


def test_a_constant_of_the_examples_stays() -> None:
    model, x = Optional().double().eval(), random(3, 4)
    explain = fxlrp.compile(model, LRP0, example_inputs={"x": x, "scale": 2.0})
    with pytest.raises(InputError, match=r"compiled for scale=2\.0, not 3\.0"):
        explain(x, scale=3.0)
    (plain,) = gradient_times_input(model, x, select=lambda y: y[:, 1].sum())
    assert_relevance(explain(x, mask=torch.ones(3, 4, dtype=torch.bool), target=1), 2 * plain, 1e-12)


def test_an_argument_that_the_model_does_not_have() -> None:
    explain = lrp0(nn.Linear(4, 3).double().eval())
    for args, kwargs, message in (
        ((random(2, 4), None), {}, "expected 1 input"),
        ((random(2, 4),), {"mask": None}, "unknown input 'mask'"),
        ((random(2, 4),), {"input": random(2, 4)}, "given twice"),
        ((), {}, "expected 1 input"),
    ):
        with pytest.raises(InputError, match=message):
            explain(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class Batch:
    image: Tensor
    table: Tensor
    size: int = 2


class Pair(NamedTuple):
    image: Tensor
    table: Tensor


class Mapped(UserDict):
    """A mapping that pytree does not know, as the encodings of tokenizers are."""


class TwoParts(nn.Module):
    def __init__(self, branch: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.branch = nn.Linear(4, 2, bias=False), nn.Linear(3, 2, bias=False), branch

    def forward(self, batch: Any, factor: float = 1.0) -> Tensor:
        if isinstance(batch, Batch | Pair):
            image, table = batch.image, batch.table
        elif isinstance(batch, list | tuple):
            image, (table,) = batch
        else:
            image, table = batch["image"], batch["table"]
        if self.branch and len(image) > 10**6:
            raise ValueError
        out: Tensor = self.a(image) * factor + self.b(table)
        return out


FORMS: dict[str, Any] = {
    "dict": lambda a, b: {"image": a, "table": b},
    "ordered": lambda a, b: OrderedDict(image=a, table=b),
    "mapping": lambda a, b: Mapped(image=a, table=b),
    "list": lambda a, b: [a, (b,)],
    "dataclass": Batch,
    "namedtuple": Pair,
}


@pytest.mark.parametrize("branch", [False, True], ids=["symbolic", "export"])
@pytest.mark.parametrize("form", one_in(3, FORMS))
def test_containers_as_inputs(form: str, branch: bool) -> None:
    model, make = TwoParts(branch).double().eval(), FORMS[form]
    for options in ({}, {"example_inputs": (make(random(2, 4), random(2, 3)),)}):
        explain = fxlrp.compile(model, LRP0, **options)  # type: ignore[arg-type]
        for batch in (2, 3):
            a, b = random(batch, 4, seed=batch), random(batch, 3, seed=7)
            expected = gradient_times_input(lambda a, b: model(make(a, b)), a, b, select=lambda y: y[:, 1].sum())
            for ours, wanted in zip(as_tuple(explain(make(a, b), target=1)), expected, strict=True):
                assert_relevance(ours, wanted, 1e-12)
    names = ("0", "1.0") if form == "list" else ("image", "table")
    results = explain._explanation.require("results").interface.results
    assert tuple(each.name for each in results) == tuple(f"batch.{name}" for name in names)


def test_a_container_of_another_form() -> None:
    model = TwoParts(False).eval()
    batch = {"image": torch.ones(2, 4), "table": torch.ones(2, 3)}
    explain = fxlrp.compile(model, example_inputs=(batch,))
    for wrong, message in (
        ({"image": torch.ones(2, 4)}, "must be a container with image, table, not one with image"),
        (torch.ones(2, 4), "must be a container with image, table, not a Tensor"),
        ({"image": torch.ones(2, 4), "table": None}, r"'batch\.table' must be a tensor, not NoneType"),
    ):
        with pytest.raises(InputError, match=message):
            explain(wrong)
    with pytest.raises(InputError, match=r"'batch\.table' is a object"):
        fxlrp.compile(model, example_inputs=({"image": torch.ones(2, 4), "table": object()},))


def test_names_that_are_equal_as_python_names_stay_apart() -> None:
    class Alike(nn.Module):
        def forward(self, a: Any, a_b: Tensor) -> Tensor:
            out: Tensor = 2 * a["b"] + 3 * a_b
            return out

    x, y = random(2, 3), random(2, 3, seed=1)
    first, second = as_tuple(lrp0(Alike().eval(), example_inputs=({"b": x}, y))({"b": x}, y, seed=2 * x + 3 * y))
    assert_relevance(first, 2 * x, 1e-9)
    assert_relevance(second, 3 * y, 1e-9)


class Cache:
    """Not known to pytree, as some caches of language models are not."""

    def __init__(self, key: Tensor) -> None:
        self.key = key


@dataclasses.dataclass
class Result:
    scores: Tensor
    cache: Any = None


class Caching(nn.Module):
    def __init__(self, branch: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.branch = nn.Linear(4, 2, bias=False), branch

    def forward(self, x: Tensor) -> Any:
        if self.branch and x.shape[0] > 10**6:
            raise ValueError
        return {"result": Result(self.linear(x), Cache(x)), "cache": Cache(x)}


@pytest.mark.parametrize("branch", [False, True], ids=["symbolic", "export"])
def test_only_the_chosen_output_has_to_be_understood(branch: bool) -> None:
    model, x = Caching(branch).double().eval(), random(3, 4)
    explain = fxlrp.compile(model, LRP0, output=("result", "scores"))
    (expected,) = gradient_times_input(lambda x: model(x)["result"].scores, x, select=lambda y: y[:, 1].sum())
    assert_relevance(explain(x, target=1), expected, 1e-12)
    for output, message in (("cache", "selects a Cache"), (("result", "no"), "a Result without 'no'")):
        with pytest.raises(InputError, match=message):
            fxlrp.compile(model, LRP0, output=output, example_inputs=x)
    with pytest.raises(CaptureError, match="one of the keys 'result', 'cache'"):
        fxlrp.compile(model, LRP0, example_inputs=x)


def test_every_output_of_a_dataclass_has_relevance_in_the_backward() -> None:
    class Returns(nn.Module):
        def forward(self, x: Tensor) -> Result:
            return Result(2 * x, cache=None)

    x = random(2, 3).requires_grad_()
    result = fxlrp.autograd(Returns().eval(), LRP0)(x)
    assert isinstance(result, Result) and result.cache is None
    result.scores.sum().backward()
    assert_relevance(x.grad, 2 * x.detach(), 1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["dict", "list"])
def test_containers_in_recipes_and_files(form: str, tmp_path: Any) -> None:
    model, make = TwoParts(False).double().eval(), FORMS[form]
    batch = make(random(2, 4), random(2, 3))
    explain = fxlrp.compile(model, LRP0, example_inputs=(batch,))
    explain.save(tmp_path / "explain.json")
    explain.export(tmp_path / "explain.pt2", (batch,), target=1)
    expected = as_tuple(explain(batch, target=1))
    loaded = as_tuple(fxlrp.load(tmp_path / "explain.json", model)(batch, target=1))
    tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(batch) if isinstance(leaf, Tensor)]
    filed = as_tuple(torch.export.load(tmp_path / "explain.pt2").module()(*tensors))
    for wanted, one, other in zip(expected, loaded, filed, strict=True):
        assert_relevance(one, wanted, 1e-12)
        assert_relevance(other, wanted, 1e-12)


def test_a_container_that_json_does_not_have(tmp_path: Any) -> None:
    batch = Batch(random(2, 4), random(2, 3))
    explain = fxlrp.compile(TwoParts(False).double().eval(), LRP0, example_inputs=(batch,))
    with pytest.raises(RecipeError, match="'batch', a Batch"):
        explain.save(tmp_path / "explain.json")


def test_containers_and_constants_in_compiled_explainers_and_backwards() -> None:
    model, batch = TwoParts(False).double().eval(), {"image": random(2, 4), "table": random(2, 3)}
    explain = fxlrp.compile(model, LRP0, example_inputs=(batch,))
    compiled = torch.compile(explain, fullgraph=True, backend="eager")
    for ours, wanted in zip(as_tuple(compiled(batch, target=1)), as_tuple(explain(batch, target=1)), strict=True):
        assert_relevance(ours, wanted, 1e-12)
    explained = fxlrp.autograd(model, LRP0, example_inputs=(batch, -2.0))
    leaves = {name: value.clone().requires_grad_() for name, value in batch.items()}
    explained(leaves, -2.0)[:, 1].sum().backward()
    expected = gradient_times_input(
        lambda image: model({**batch, "image": image}, -2.0), batch["image"], select=lambda y: y[:, 1].sum()
    )
    assert_relevance(leaves["image"].grad, expected[0], 1e-12)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"captured with factor=-2\.0: pass it in every call"):
        explained(leaves)
