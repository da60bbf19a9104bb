"""Names that exist in the model but not in the graph: every interface that takes a name says why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import InputError, RuleError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout()
        self.same, self.unused, self.head = nn.Identity(), nn.Linear(2, 2), nn.Linear(2, 3)
        self.lent = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.same(self.drop(self.norm(self.conv(x)))))
        out: Tensor = self.head(F.linear(x.mean((2, 3)), self.lent.weight))
        return out


X = torch.rand(2, 1, 5, 5)
REASONS = {
    "norm": "BatchNorm is folded into 'conv', .* name 'conv' instead",
    "drop": "changes nothing in eval mode, and is removed",
    "same": "has no operation in the graph",
    "lent": "is not called: another module reads its parameters",
    "unused": "has no operation in the graph",
    "unused.weight": "a parameter that the output does not need",
}


@pytest.mark.parametrize("capture", ["symbolic", "export"])
@pytest.mark.parametrize("name", REASONS)
def test_a_name_that_is_not_in_the_graph(name: str, capture: Any) -> None:
    model, reason = Net().eval(), REASONS[name]
    options: dict[str, Any] = {"capture": capture, "example_inputs": X}
    with pytest.raises(InputError, match=f"at='{name}'.*{reason}"):
        fxlrp.compile(model, at=name, **options)
    with pytest.raises(RuleError, match=reason):
        fxlrp.compile(model, [(name, fxlrp.rules.Epsilon(1e-3))], **options)
    with pytest.raises(KeyError, match=reason):
        fxlrp.compile(model, **options).debug(X)[name]


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(InputError, match="no node and no module has this name; similar names: head"):
        fxlrp.compile(Net().eval(), at="heads")
    with pytest.raises(RuleError, match="matches nothing that relevance flows through; similar names: head"):
        fxlrp.compile(Net().eval(), [("heads", fxlrp.rules.Epsilon())])


@pytest.mark.parametrize("name", ["cov", "conv.wieght", "heed", "meen", "relu_1"])
def test_similar_names_can_be_used(name: str) -> None:
    model = Net().eval()
    with pytest.raises(InputError) as caught:
        fxlrp.compile(model, at=name)
    found = str(caught.value).partition("similar names: ")[2].split(", ")
    assert found != [""]
    for each in found:
        fxlrp.compile(model, at=each)


def test_the_reason_holds_for_rules_of_modules_inside_others() -> None:
    """The name in the reason is that of a node."""
    inner = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2))
    model = nn.Sequential(inner, nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)).eval()
    with pytest.raises(RuleError, match="name '_0_0' instead"):
        fxlrp.compile(model, [("0.1", fxlrp.rules.Flat())])
    by_node = fxlrp.compile(model, [("_0_0", fxlrp.rules.Flat())])
    assert torch.equal(by_node(X), fxlrp.compile(model, [("0.0", fxlrp.rules.Flat())])(X))
    assert not torch.equal(by_node(X), fxlrp.compile(model)(X))


def test_debug_takes_the_names_of_inputs_and_modules() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
            self.head = nn.Linear(18, 3)

        def forward(self, input: Tensor) -> Tensor:
            out: Tensor = self.head(self.stem(input).flatten(1))
            return out

    found = fxlrp.compile(Named().eval()).debug(X)
    assert {found[name].node for name in ("input", "input_1")} == {"input_1"}
    assert {found[name].node for name in ("stem", "stem.1", "stem_1")} == {"stem_1"}
    with pytest.raises(KeyError, match=r"similar names: stem.1, stem"):
        found["stem.11"]
    with pytest.raises(KeyError, match=r"1 is not a name: use .nodes"):
        found[1]  # type: ignore[index]


def test_the_name_in_the_reason_has_the_relevance() -> None:
    assert fxlrp.compile(Net().eval(), at="conv")(X).shape == (2, 2, 3, 3)
