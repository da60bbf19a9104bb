"""merge_layouts: equal changes of a layout are one, and other changes stay."""

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from fxlrp.layouts import from_local, redistribute, to_local
from fxlrp.passes.functionalize import functionalize
from fxlrp.passes.merge_layouts import merge_layouts
from fxlrp.passes.normalize import normalize
from fxlrp.program import Program
from oracles import random
from pass_programs import program_after, value

X = random(2, 6, seed=4)
CHANGES = (from_local, redistribute, to_local)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6).double(), nn.Linear(6, 6).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


def named(program: Program, name: str) -> fx.Node:
    (found,) = (node for node in program.graph.nodes if str(node.target) == name)
    return found


def program_of(*changes: tuple[Any, ...], model: nn.Module | None = None) -> Program:
    """A program that adds up changes of its input; each is a function and its arguments behind the input."""
    program = program_after((functionalize, normalize), model or Net())
    graph, output = program.graph, program.graph.output_node()
    with graph.inserting_before(output):
        made = []
        for function, *arguments in changes:
            given = (named(program, each) if isinstance(each, str) else each for each in arguments)
            made.append(graph.call_function(function, (named(program, "x"), *given)))
        total = made[0]
        for each in made[1:]:
            total = graph.call_function(torch.add, (total, each))
    output.args = (total,)
    return program


def changes_of(program: Program) -> list[tuple[Any, ...]]:
    return [(node.target, *map(str, node.args)) for node in program.graph.nodes if node.target in CHANGES]


@pytest.mark.parametrize(
    "change", [(redistribute, (0,)), (redistribute, ("R",)), (to_local,)], ids=["rows", "copies", "local"]
)
def test_equal_changes_are_one(change: tuple[Any, ...]) -> None:
    program = program_of(change, change, change)
    first = changes_of(program)[0]
    assert merge_layouts(program) == 2
    assert changes_of(program) == [first]
    program.graph.lint()
    # On one device a layout is no change, so the sum is three times the input.
    torch.testing.assert_close(value(program, X), 3 * X)


def test_other_changes_stay() -> None:
    program = program_of((redistribute, (0,)), (redistribute, (1,)), (redistribute, ("R",)), (to_local,))
    before = changes_of(program)
    assert merge_layouts(program) == 0 and changes_of(program) == before


def test_changes_of_other_values_stay() -> None:
    program = program_of((redistribute, (0,)), (redistribute, (0,)))
    second = [node for node in program.graph.nodes if node.target is redistribute][1]
    second.replace_input_with(named(program, "x"), named(program, "model.first.weight"))
    assert merge_layouts(program) == 0


@pytest.mark.parametrize(("meshes", "count"), [("aa", 1), ("ab", 0), ("", 0)], ids=["one", "two", "none"])
def test_a_parameter_stands_for_its_mesh(meshes: str, count: int) -> None:
    model = Net()
    for module, mesh in zip((model.first, model.second), meshes, strict=False):
        module.weight.device_mesh = mesh  # type: ignore[attr-defined]
    weights = ("model.first.weight", "model.second.weight")
    assert merge_layouts(program_of(*((from_local, weight, (0,)) for weight in weights), model=model)) == count
