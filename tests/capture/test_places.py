"""Every node has its module path and the user's line."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxlrp
import traces
import zoo
from fxlrp.provenance import module_path, module_stack, source_line
from helpers import assert_is_gradient, lrp0, place_of
from oracles import random, randomize
from traces import Stacked

# Where the model under test is written.
FILE = Path(traces.__file__)


def test_every_node_has_its_module_path() -> None:
    explain = fxlrp.compile(Stacked().eval())
    paths = {node.name: module_path(node) for node in explain.nodes if node.op == "call_function"}
    assert paths == {
        "blocks_0_gate": "blocks.0.gate",
        "blocks_0_sigmoid": "blocks.0",
        "blocks_0_mul": "blocks.0",
        "act_0": "act",
        "blocks_1_gate": "blocks.1.gate",
        "blocks_1_sigmoid": "blocks.1",
        "blocks_1_mul": "blocks.1",
        "act_1": "act",
        "add": "",
        "head_1": "head.1",
    }
    (gate,) = (node for node in explain.nodes if node.name == "blocks_1_gate")
    assert [(path, cls.__name__) for path, cls in module_stack(gate)] == [
        ("", "Stacked"),
        ("blocks.1", "Attention"),
        ("blocks.1.gate", "Linear"),
    ]


def test_every_node_has_the_users_line() -> None:
    """The innermost line that is the user's own: where torch's layer is called, not inside it."""
    explain = fxlrp.compile(Stacked().eval())
    lines = {node.name: source_line(node) for node in explain.nodes if node.op == "call_function"}
    expected = {
        "blocks_0_gate": "gate",
        "blocks_0_sigmoid": "gate",
        "blocks_0_mul": "product",
        "act_0": "block",
        "act_1": "block",
        "blocks_1_mul": "product",
        "add": "helper",
        "head_1": "head",
    }
    for name, marker in expected.items():
        assert lines[name].startswith(f"{place_of(FILE, marker)}: "), name
    assert lines["blocks_0_mul"] == f"{place_of(FILE, 'product')}: return x * weight  # here: product"
    parameters = [node for node in explain.nodes if node.op == "get_attr"]
    assert len(parameters) == 6 and all(FILE.name in source_line(node) for node in parameters)


def test_lines_in_torchvision_are_torchvisions() -> None:
    explain = fxlrp.compile(zoo.build("resnet18"))
    assert all("resnet.py:" in source_line(node) for node in explain.nodes if node.op == "call_function")


def test_lines_of_a_model_defined_in_no_file() -> None:
    namespace: dict[str, Any] = {"torch": torch, "nn": nn}
    exec("class Net(nn.Module):\n    def forward(self, x):\n        return torch.relu(x)\n", namespace)
    explain = fxlrp.compile(namespace["Net"]().eval())
    assert "<string>:3" in source_line(explain.nodes[-1])
    assert torch.equal(explain(torch.ones(1, 2), target=0), torch.tensor([[1.0, 0.0]]))


def test_module_paths_of_a_module_with_two_names() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = self.first

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)))

    model = randomize(Shared())
    explain = lrp0(model.eval())
    assert_is_gradient(explain(random(2, 4)), model, random(2, 4))
    assert sum(node.op == "call_function" and "first" in module_path(node) for node in explain.nodes) == 2
