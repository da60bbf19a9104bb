"""name_nodes: nodes are called after the modules of the model."""

import torch
from torch import Tensor, nn

from fxlrp.passes.name_nodes import name_nodes
from fxlrp.program import Program
from pass_programs import before, program_after


def names(program: Program) -> list[str]:
    return [node.name for node in program.graph.nodes]


def test_name_nodes() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.conv(self.act(x)) + x)

    model = nn.Sequential(Block(), nn.Flatten(), nn.Linear(12, 2))
    program = program_after(before(name_nodes), model)
    assert name_nodes(program) == 10
    assert names(program) == [
        "input_1",
        "_0_act",
        "_0_conv_weight",
        "_0_conv_bias",
        "_0_conv",
        "_0_add",
        "_0_act_1",
        "_1",
        "_2_weight",
        "_2_bias",
        "_2",
        "output",
    ]


def test_name_nodes_where_a_module_has_several_operations() -> None:
    class Squash(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x) * torch.sigmoid(x)

    program = program_after(before(name_nodes), nn.Sequential(Squash(), Squash()))
    assert name_nodes(program) == 6
    assert {name for name in names(program) if "_0" in name or "_1" in name} >= {
        "_0_tanh",
        "_0_sigmoid",
        "_0_mul",
        "_1_tanh",
        "_1_sigmoid",
        "_1_mul",
    }


def test_name_nodes_of_modules_that_are_called_like_operations() -> None:
    """The calls of a module of the root have the numbers 0 and 1, whatever other calls were named before."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
            self.linear, self.relu = nn.Linear(6, 6), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.linear(self.relu(self.body(x))))

    program = program_after(before(name_nodes), Plain())
    name_nodes(program)
    assert [node.name for node in program.graph.nodes if node.op == "call_function"] == [
        "body_0",
        "body_1",
        "body_2",
        "relu_0",
        "linear",
        "relu_1",
    ]


def test_name_nodes_counts(resnet18: nn.Module) -> None:
    """102 parameters and statistics, and the 68 calls that are made inside a module: all but flatten."""
    tensors = [name for name, _ in resnet18.named_parameters()]
    tensors += [name for name, _ in resnet18.named_buffers() if not name.endswith("num_batches_tracked")]
    program = program_after(before(name_nodes), resnet18)
    assert name_nodes(program) == len(tensors) + 68 == 170
    assert {name.replace(".", "_") for name in tensors} <= set(names(program))
    assert {"conv1", "layer1_0_conv1", "layer4_1_add", "fc", "layer2_0_downsample_0"} <= set(names(program))
    # the BasicBlock's one ReLU module is called twice
    assert {"layer1_0_relu", "layer1_0_relu_1"} <= set(names(program))
