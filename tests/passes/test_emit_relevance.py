"""emit_relevance: the steps that hand relevance back."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
import fxlrp.passes
import zoo
from fxlrp import presets
from fxlrp.errors import InternalError
from fxlrp.passes.annotate import annotate
from fxlrp.passes.emit_relevance import emit_relevance
from fxlrp.program import returned_by
from oracles import One, Two, random
from pass_programs import before, program_after

X = random(2, 6, seed=4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("resnet18", 49), ("googlenet", 139), ("densenet121", 372)])
def test_emit_relevance_counts(name: str, count: int) -> None:
    """A step for every annotated node: every call that is left after folding."""
    program = program_after(before(annotate), zoo.build(name))
    forward = sum(node in program.facts.dependent for node in program.graph.nodes if node.op == "call_function")
    assert annotate(program) == forward == count
    assert emit_relevance(program) == count


def test_emit_relevance_by_hand() -> None:
    """``y = 2 a - 3 b`` for a = 5, b = 1: 10 to a, -3 to b."""
    weight = torch.tensor([[2.0, -3.0]])
    model = One(lambda x: F.linear(x, weight))
    program = program_after(before(emit_relevance), model, "epsilon")
    assert emit_relevance(program) == 1
    program.graph_module.recompile()
    result = program.graph_module(torch.tensor([[5.0, 1.0]]))
    torch.testing.assert_close(result, torch.tensor([[10.0, -3.0]]))


def test_emit_relevance_adds_inputs_behind_the_models() -> None:
    program = program_after(before(emit_relevance), Two(lambda a, b: a + b))
    emit_relevance(program)
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    assert [node.name for node in placeholders] == ["a", "b", "target", "seed"]
    assert [node.args for node in placeholders] == [(), (), (None,), (None,)]
    assert len(returned_by(program.graph)) == 2


def test_emit_relevance_for_models_whose_inputs_have_these_names() -> None:
    class Named(nn.Module):
        def forward(self, target: Tensor, seed: Tensor) -> Tensor:
            return 2 * target + seed

    explain = fxlrp.compile(Named().eval(), presets.epsilon(0.0))
    target, seed = torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, 20.0]])
    first, second = explain(target, seed, target=1).values()
    assert first.tolist() == [[0.0, 4.0]] and second.tolist() == [[0.0, 20.0]]


def test_emit_relevance_of_an_unused_input_is_zero() -> None:
    program = program_after(before(emit_relevance), Two(lambda a, b: a.relu()))
    emit_relevance(program)
    program.graph_module.recompile()
    first, second = program.graph_module(X, X)
    assert first.abs().sum() > 0 and torch.equal(second, torch.zeros_like(X))


def test_emit_relevance_adds_up_what_a_value_receives() -> None:
    program = program_after(before(emit_relevance), lambda x: x * 1 + x * 2 + x * 3, "epsilon")
    assert emit_relevance(program) == 5
    program.graph_module.recompile()
    # Every operand's share is its value: they add up to the whole, 6 x.
    result = program.graph_module(torch.tensor([[1.0, 7.0]]), 1)
    torch.testing.assert_close(result, torch.tensor([[0.0, 42.0]]), rtol=1e-5, atol=0)


def test_emit_relevance_refuses_an_emitter_that_drops_relevance(monkeypatch: pytest.MonkeyPatch) -> None:
    from fxlrp import propagate as module
    from fxlrp.relevance.step import Implementation

    broken = Implementation(lambda step: [None, None])
    monkeypatch.setattr(module, "implementation", lambda operation, rule: broken)
    program = program_after(before(emit_relevance), lambda x: x + x)
    with pytest.raises(InternalError, match="add"):
        emit_relevance(program)
