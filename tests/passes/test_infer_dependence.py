"""infer_dependence: which values depend on an input."""

import copy
import operator
from typing import Any

import pytest
import torch
from torch import Tensor, fx

import zoo
from fxlrp.errors import CaptureError
from fxlrp.passes.infer_dependence import infer_dependence
from oracles import random
from pass_programs import before, program_after

WEIGHT = random(6, 6, seed=3)


class RequiresGrad(fx.Interpreter):
    """Runs a graph and notes which values depend on the inputs: those that autograd would follow."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        parts = result if isinstance(result, list | tuple) else (result,)
        if any(isinstance(part, Tensor) and part.requires_grad for part in parts):
            self.found.add(n.name)
        return result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 51), ("googlenet", 141), ("efficientnet_b0", 192), ("shapes", 35)]
)
def test_infer_dependence_counts(name: str, count: int) -> None:
    """Autograd's word, with frozen parameters, input and output included."""
    model, x = zoo.calibrated(name) if name != "shapes" else zoo.small_net(name)
    program = program_after(before(infer_dependence), copy.deepcopy(model).requires_grad_(False))
    program.graph_module.recompile()
    interpreter = RequiresGrad(program.graph_module)
    interpreter.run((x[0] if isinstance(x, tuple) else x).requires_grad_())
    assert infer_dependence(program) == len(program.facts.dependent) == len(interpreter.found) == count
    assert {node.name for node in program.facts.dependent} == interpreter.found


def test_infer_dependence_stops_at_sizes_masks_and_indices() -> None:
    def function(x: Tensor) -> Tensor:
        mask = x > 0
        index = x.argmax(1)
        scaled = torch.ones_like(x) * x.shape[0]
        gathered = WEIGHT.index_select(0, index)
        return torch.where(mask, gathered, scaled) + x

    program = program_after(before(infer_dependence), function)
    assert infer_dependence(program) == 3
    assert {node.target if node.op == "call_function" else node.op for node in program.facts.dependent} == {
        "placeholder",
        operator.add,
        "output",
    }


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: (x, x + 1), "tuple"),
        (lambda x: [x.relu()], "list"),
        (lambda x: {"logits": x.relu()}, "dict"),
        (lambda x: x.chunk(2, 1), "chunk"),
        (lambda x: x.shape[0], "output"),
        (lambda x: torch.ones(3), "output"),
        (lambda x: 3, "int"),
        (lambda x: x > 0, "output"),
        (lambda x: None, "NoneType"),
    ],
    ids=["tuple", "list", "dict", "chunk", "size", "constant", "int", "mask", "none"],
)
def test_infer_dependence_refuses_an_output_that_cannot_be_explained(function: Any, named: str) -> None:
    with pytest.raises(CaptureError, match=named):
        infer_dependence(program_after(before(infer_dependence), function))
