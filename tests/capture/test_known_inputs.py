"""Conditions on the values of integers and of declared constants are followed; other values capture the model again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import CaptureError, FxlrpError
from helpers import LRP0, one_in
from oracles import assert_relevance, random


class Net(nn.Module):
    """Layers of which a condition on the mask chooses, behind a branch on a size for ``torch.export``."""

    def __init__(self, condition: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
        self.condition = condition

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if x.shape[1] > 100:
            raise ValueError
        out: Tensor = self.a(x) if self.condition(mask) else self.b(x)
        return out


def in_place(mask: Tensor) -> Any:
    copied = torch.zeros(4, dtype=mask.dtype)
    part = copied[:3]
    part.copy_(mask)
    part[0] = 0
    return copied.sum() > 0


def part_of_the_size_of_a_result(mask: Tensor) -> Any:
    return any(float(index) == 1 for index in mask.nonzero())


CONDITIONS: dict[str, Callable[[Tensor], Any]] = {
    "any": lambda mask: mask.any(),
    "item": lambda mask: mask.flatten().sum().item() > 0,
    "comparison": lambda mask: mask.max() == 1,
    "list": lambda mask: mask.tolist()[1],
    "equal": lambda mask: torch.equal(mask, torch.tensor([0, 1, 0])),
    "in": lambda mask: 1 in mask,
    "int": lambda mask: int(mask[1]),
    "in place": in_place,
    "loop over nonzero": part_of_the_size_of_a_result,
}


@pytest.mark.parametrize("name", one_in(4, CONDITIONS))
def test_a_condition_on_an_integer_input_is_followed(name: str) -> None:
    model, off, on = Net(CONDITIONS[name]).double().eval(), torch.tensor([0, 0, 0]), torch.tensor([0, 1, 0])
    explain = fxlrp.compile(model, LRP0, example_inputs={"x": random(2, 4), "mask": off}, constants=["mask"])
    for batch, mask in ((2, off), (3, on), (1, off), (2, on)):
        x = random(batch, 4)
        weight = model.a.weight if bool(mask.any()) else model.b.weight
        assert_relevance(explain(x, mask, target=1), x * weight[1], 1e-12)
    assert off.tolist() == [0, 0, 0]


def test_values_with_the_same_result_need_one_capture() -> None:
    model = Net(lambda mask: mask.any()).double().eval()
    explain = fxlrp.compile(model, LRP0, example_inputs=(random(2, 4), torch.zeros(3).long()))
    for values in ([0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1], [0, 0, 0]):
        explain(random(2, 4), torch.tensor(values), target=0)
    assert len(explain._explanation.all) == 2


def test_a_condition_on_a_real_input_has_to_be_declared() -> None:
    model, x = Net(lambda mask: mask.any()).double().eval(), random(2, 4)
    with pytest.raises(CaptureError, match=r"self\.condition\(mask\)(.|\n)*constants=\[\.\.\.\]"):
        fxlrp.compile(model, LRP0, example_inputs=(x, torch.zeros(3)))
    explain = fxlrp.compile(model, LRP0, example_inputs=(x, torch.zeros(3)), constants=["mask"])
    for mask, layer in ((torch.zeros(3), model.b), (torch.ones(3), model.a)):
        assert_relevance(explain(x, mask, target=1), x * layer.weight[1], 1e-12)


@pytest.mark.slow
def test_a_size_of_a_known_input_remains_open() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            if mask.shape[0] > 100 or not mask.any():
                raise ValueError
            return (x * mask).sum(1, keepdim=True) * (1 if mask.shape[0] > 5 else 2)

    explain = fxlrp.compile(
        Net().eval(), LRP0, example_inputs=(random(2, 4), torch.ones(2, 4).int()), constants=["mask"]
    )
    for batch in (2, 3, 7):
        x, mask = random(batch, 4), torch.ones(batch, 4).int()
        assert_relevance(explain(x, mask, target=0), x * (1 if batch > 5 else 2), 1e-12)


def explainer() -> tuple[Net, fxlrp.Explainer]:
    model = Net(lambda mask: mask.any()).double().eval()
    return model, fxlrp.compile(model, LRP0, example_inputs=(random(2, 4), torch.zeros(3).long()))


def test_a_copy_has_the_same_guards() -> None:
    _, explain = explainer()
    copied, x = copy.deepcopy(explain), random(2, 4)
    for mask in (torch.zeros(3).long(), torch.ones(3).long()):
        assert torch.equal(copied(x, mask, target=1), explain(x, mask, target=1))


def test_a_file_is_refused_because_it_could_not_check_the_values(tmp_path: Any) -> None:
    _, explain = explainer()
    with pytest.raises(FxlrpError, match=r"reads values of 'mask' \(read at .*self\.condition\(mask\)"):
        explain.export(tmp_path / "explain.pt2", (random(2, 4), torch.zeros(3).long()))


def test_a_compiled_explainer_is_refused_because_it_could_not_check_the_values() -> None:
    _, explain = explainer()
    with pytest.raises(Exception, match="reads values of 'mask'"):
        torch.compile(explain, fullgraph=True, backend="eager")(random(2, 4), torch.zeros(3).long(), target=1)


class Experts(nn.Module):
    """The loop of transformers over the experts that were chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(4, 3, bias=False)
        self.weights = nn.Parameter(torch.randn(3, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).softmax(-1).topk(2)
        out = torch.zeros_like(x)
        mask = nn.functional.one_hot(chosen, 3).permute(2, 1, 0)
        for (expert,) in mask.sum((-1, -2)).gt(0).nonzero():
            place, row = torch.where(mask[expert])
            out.index_add_(0, row, nn.functional.linear(x[row], self.weights[expert]) * weights[row, place, None])
        return out


def test_a_loop_over_the_experts_that_were_chosen_is_refused_with_the_remedy() -> None:
    torch.manual_seed(0)
    with pytest.raises(CaptureError, match=r"for \(expert,\) in mask(.|\n)*torch\.where(.|\n)*grouped_mm for experts"):
        fxlrp.compile(Experts().eval(), example_inputs=random(5, 4).float())
