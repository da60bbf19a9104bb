"""Which arguments of a model are inputs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
from fxlrp.errors import CaptureError, FxlrpError, InputError
from helpers import as_tuple, assert_is_gradient, lrp0
from oracles import One, Two, random, randomize


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor, scale: float = 2.5, shift: Tensor | None = None, *, double: bool = True) -> Tensor:
        x = self.linear(x) * scale
        if double:
            x = 2 * x
        return x if shift is None else x + shift


def inputs_of(explain: fxlrp.Explainer) -> list[str]:
    return [node.name for node in explain.nodes if node.op == "placeholder"]


def test_default_arguments_are_used() -> None:
    model = randomize(Scaled())
    explain = lrp0(model.eval())
    assert inputs_of(explain) == ["x"]
    assert_is_gradient(explain(random(2, 4)), model, random(2, 4))
    # scale and double are in the program as the numbers they are by default
    factors = [node.args[1] if node.args[0] != 2 else 2 for node in explain.nodes if "mul" in node.name]
    assert factors == [2.5, 2]


def test_example_inputs_say_how_many_arguments_are_given() -> None:
    model = randomize(Scaled())
    explain = lrp0(
        model.eval(), example_inputs=[random(2, 4), torch.full((2, 1), 1.5, dtype=torch.float64), random(2, 3)]
    )
    assert inputs_of(explain) == ["x", "scale", "shift"]
    relevance = explain(random(2, 4), torch.ones(2, 1, dtype=torch.float64), random(2, 3, seed=5))
    assert list(relevance) == ["x", "scale", "shift"]
    assert [tuple(r.shape) for r in relevance.values()] == [(2, 4), (2, 1), (2, 3)]


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        return self.linear(first + sum(other * (i + 1) for i, other in enumerate(others)))


def test_any_number_of_arguments() -> None:
    model = randomize(Sum())
    xs = [random(2, 4, seed=seed) for seed in range(3)]
    without_examples = lrp0(model.eval())
    for count in (1, 3, 2):
        assert_is_gradient(without_examples(*xs[:count]), model, *xs[:count])
    explain = lrp0(model.eval(), example_inputs=xs)
    assert len(inputs_of(explain)) == 3
    assert_is_gradient(explain(*xs), model, *xs)
    with pytest.raises(InputError, match="expected 3 inputs"):
        explain(*xs[:2])
    alone = lrp0(model.eval(), example_inputs=xs[:1])
    assert alone(xs[0]).shape == (2, 4)


def test_several_inputs_in_the_order_of_forward() -> None:
    weight = random(3, 4)
    model = Two(lambda a, b: F.linear(a, weight) - b)
    explain = lrp0(model.eval())
    assert inputs_of(explain) == ["a", "b"]
    assert_is_gradient(explain(random(2, 4), random(2, 3)), model, random(2, 4), random(2, 3))


def test_an_index_beside_a_tensor() -> None:
    """An integer input is read, and gets no relevance of its own."""

    class Picks(nn.Module):
        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            return x.index_select(1, index)

    x = random(2, 4)
    relevance = lrp0(Picks().eval())(x, torch.tensor([3, 0]), seed=torch.ones(2, 2).double())
    assert torch.equal(relevance, torch.tensor([[1.0, 0, 0, 1.0]] * 2).double())


def test_arguments_by_keyword_only() -> None:
    class Needs(nn.Module):
        def forward(self, x: Tensor, *, mask: Tensor) -> Tensor:
            return x * mask

    explain = lrp0(Needs().eval())
    x, mask, seed = random(2, 4), random(2, 4, seed=1), random(2, 4, seed=2)
    for relevance in as_tuple(explain(x, mask=mask, seed=seed)):
        # The factors of a product share its relevance.
        torch.testing.assert_close(relevance, seed / 2)
    with pytest.raises(InputError, match=r"expected 2 inputs \(x, mask\), got 1"):
        explain(x)


@pytest.mark.parametrize(
    ("model", "examples", "error", "named"),
    [
        (One(torch.relu), [torch.ones(1), torch.ones(1)], InputError, "One.forward takes 1 input, not 2"),
        (nn.Module(), None, CaptureError, "forward"),
    ],
    ids=["too_many", "no_forward"],
)
def test_wrong_number_of_arguments(model: nn.Module, examples: Any, error: type[FxlrpError], named: str) -> None:
    with pytest.raises(error, match=named):
        fxlrp.compile(model.eval(), example_inputs=examples)


def test_no_argument_at_all() -> None:
    class Constant(nn.Module):
        def forward(self) -> Tensor:
            return torch.ones(1)

    with pytest.raises(CaptureError, match=r"Constant.forward takes 0 inputs"):
        fxlrp.compile(Constant().eval())


@pytest.mark.parametrize("names", ["target seed", "self_ relevance", "out r_x", "input torch", "x model", "lambda_ F"])
def test_inputs_may_have_any_name(names: str) -> None:
    first, second = names.split()
    namespace: dict[str, Any] = {"nn": nn}
    exec(
        f"class Net(nn.Module):\n    def forward(self, {first}, {second}):\n        return {first} - {second}",
        namespace,
    )
    one, other = random(2, 3), random(2, 3, seed=1)
    assert_is_gradient(lrp0(namespace["Net"]().eval())(one, other), namespace["Net"](), one, other)
