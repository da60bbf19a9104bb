"""A module of the model as selector: everything that the module and those inside it compute."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import presets, rules
from fxlrp.errors import RuleError
from helpers import one_in

GAMMA = rules.Gamma(0.25)


class Net(nn.Module):
    """`stage1` and `stage10` begin alike, `blocks` is never called itself, and `twice` is there under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.stage10 = nn.Linear(4, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.twice = nn.Linear(4, 4)
        self.again = self.twice
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage10(self.stage1(x))
        for block in self.blocks:
            x = block(x)
        return self.again(torch.relu(self.twice(x)))


def selected(explain: fxlrp.Explainer) -> set[str]:
    return {node.name for node in explain.nodes if "fxlrp" in node.meta and node.meta["fxlrp"].rule == GAMMA}


@pytest.mark.parametrize("capture", one_in(2, ["symbolic", "export"]))
@pytest.mark.parametrize(
    ("path", "nodes"),
    [
        ("stage1", {"stage1_0", "stage1_2"}),
        ("stage1.2", {"stage1_2"}),
        ("stage10", {"stage10"}),
        ("blocks", {"blocks_0", "blocks_1"}),
        ("twice", {"twice_0", "twice_1"}),
        ("again", {"twice_0", "twice_1"}),
        ("", {"stage1_0", "stage1_2", "stage10", "blocks_0", "blocks_1", "twice_0", "twice_1"}),
    ],
)
def test_what_a_module_selects(path: str, nodes: set[str], capture: Any, tmp_path: Path) -> None:
    model = Net().eval()
    example = torch.rand(2, 4)
    explain = fxlrp.compile(model, [(model.get_submodule(path), GAMMA)], capture=capture, example_inputs=example)
    if capture == "export":  # the second call has the other name of the module
        nodes = {{"twice_0": "twice", "twice_1": "again"}.get(name, name) for name in nodes}
    assert selected(explain) == nodes
    explain.save(tmp_path / "recipe.json")
    assert selected(fxlrp.load(tmp_path / "recipe.json", model)) == nodes
    assert (path.replace("again", "twice") or "the model") in str(explain)


def test_a_copy_is_not_a_module_of_the_model() -> None:
    model = Net().eval()
    for other in (copy.deepcopy(model).stage10, nn.Linear(4, 4)):
        with pytest.raises(RuleError, match=r"Linear\(\.\.\.\) is a module, but not one of the model"):
            fxlrp.compile(model, [(other, GAMMA)])


def test_a_module_that_is_not_called() -> None:
    model = Net().eval()
    with pytest.raises(RuleError, match=r"'unused', Gamma.*matches nothing"):
        fxlrp.compile(model, [(model.unused, GAMMA)])


def test_a_module_in_a_preset_that_waits_for_its_first_call() -> None:
    """The copy has modules of its own; the selector means the same place in it."""

    class Waits(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.shape[0] > 0 else x

    model = Waits().eval()
    explain = fxlrp.compile(model, presets.epsilon().override([(model.stage10, GAMMA)]))
    twin = copy.deepcopy(explain)
    for each in (explain, twin):
        each(torch.rand(2, 4))
        assert selected(each) == {"stage10"}


@pytest.mark.usefixtures("fresh_compiler")
def test_in_a_backward() -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.rand(2, 4)
    pairs: Any = [(model.stage1, GAMMA)]
    expected = fxlrp.compile(model, pairs)(x, target=1)
    for explained in (fxlrp.autograd(model, pairs), torch.compile(model, backend=fxlrp.backend(pairs))):
        leaf = x.clone().requires_grad_()
        explained(leaf)[:, 1].sum().backward()
        torch.testing.assert_close(leaf.grad, expected)
