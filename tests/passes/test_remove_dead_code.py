"""remove_dead_code: what nothing reads goes."""

import pytest
from torch import Tensor, nn

import zoo
from fxlrp.passes.decompose import decompose
from fxlrp.passes.functionalize import functionalize
from fxlrp.passes.normalize import normalize
from fxlrp.passes.remove_dead_code import remove_dead_code
from fxlrp.passes.remove_identities import remove_identities
from fxlrp.program import Program
from oracles import assert_relevance, random
from pass_programs import calls, program_after, value

X = random(2, 6, seed=4)

CANONICAL_PASSES = (functionalize, normalize, decompose)


def test_remove_dead_code_takes_chains_and_leaves_inputs() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            self.unused(x).relu().sum()
            return self.used(x)

    model = Unused().double()
    program = program_after((functionalize, normalize), model)
    assert remove_dead_code(program) == 5  # two parameters and three calls
    assert [node.name for node in program.graph.nodes if node.op == "placeholder"] == ["x", "y"]
    assert len(calls(program)) == 1
    assert_relevance(value(program, X, X), model.used(X).detach(), 1e-13)


def unreachable(program: Program) -> int:
    """Nodes that the output does not read, inputs left out."""
    reached = {program.graph.output_node()}
    for node in reversed(program.graph.nodes):
        if node in reached:
            reached.update(node.all_input_nodes)
    return sum(node not in reached and node.op != "placeholder" for node in program.graph.nodes)


@pytest.mark.parametrize(("name", "count"), [("unused_branch", 6), ("residual", 0), ("shapes", 1)])
def test_remove_dead_code_counts(name: str, count: int) -> None:
    """The unused branch has a convolution with two parameters and three more calls; of a shape one size is unused."""
    model, inputs = zoo.small_net(name)
    program = program_after((*CANONICAL_PASSES, remove_identities), model)
    assert unreachable(program) == count
    assert remove_dead_code(program) == count
    assert unreachable(program) == remove_dead_code(program) == 0
    assert_relevance(value(program, *inputs), model(*inputs).detach(), 1e-12)
