"""The stages of a compilation, and where one goes wrong."""

from __future__ import annotations

import copy
import operator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import zoo
from debugged_models import conv_bn
from fxlrp.errors import InputError
from fxlrp.passes import pipeline
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program
from fxlrp.relevance.numerics import stabilize
from helpers import FRONT_ENDS, slow_ones
from oracles import One, assert_relevance, random


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_every_pass_is_a_stage(capture: Any) -> None:
    model, x = conv_bn()
    stages = fxlrp.compile(model, capture=capture, example_inputs=x, debug=True).stages
    ran = [each for each in pipeline.EXPLANATION if each.name not in ("checkpoint", "nest_regions")]
    assert [stage.name for stage in stages] == ["capture", *(each.name for each in ran)]
    assert stages["fold_batch_norm"].count == 1 and stages["annotate"].count == 4
    assert stages["capture"].count == len(stages[0].graph.nodes)
    emitted = [stage.name for stage in stages].index("emit_relevance")
    assert [stage.is_forward for stage in stages] == [index < emitted for index in range(len(stages))]


def test_stages_are_copies_and_the_last_is_the_program() -> None:
    model, _ = conv_bn()
    explain = fxlrp.compile(model, debug=True)
    stages = explain.stages
    assert stages[-1].code == explain.code
    assert all(stage.graph is not explain.graph_module.graph for stage in stages)
    assert len({id(stage.graph) for stage in stages}) == len(stages) == len(stages[:])
    assert "batch_norm" in stages["name_nodes"].code
    assert "batch_norm(" not in stages["fold_batch_norm"].code.replace("fold_batch_norm", "")
    with pytest.raises(KeyError, match="unknown stage 'fold'; the stages are: capture, functionalize"):
        stages["fold"]


def test_differences_between_stages() -> None:
    model, _ = conv_bn()
    stages = fxlrp.compile(model, debug=True).stages
    lines = stages.diff("fold_batch_norm").splitlines()
    assert lines[:2] == ["--- infer_values", "+++ fold_batch_norm"]
    removed = [line for line in lines if line.startswith("-") and "batch_norm(" in line]
    added = [line for line in lines if line.startswith("+") and "folded_weight(" in line]
    assert len(removed) == len(added) == 1 and "conv2d" not in removed[0]
    assert stages.diff("infer_dependence") == ""
    assert stages.diff(-1) == stages.diff(len(stages) - 1)
    assert stages.diff(0).count("\n+") > 5
    table = str(stages)
    assert "fold_batch_norm" in table and len(table.splitlines()) == len(stages) + 2


def test_without_debug_nothing_is_kept() -> None:
    explain = fxlrp.compile(conv_bn()[0])
    with pytest.raises(InputError, match="debug=True"):
        _ = explain.stages
    with pytest.raises(InputError, match="debug=True"):
        explain.check_stages(random(2, 1, 6, 6))


def test_a_debugged_explainer_can_be_copied() -> None:
    model, x = conv_bn()
    explain = fxlrp.compile(model, debug=True)
    again = copy.deepcopy(explain)
    assert again.stages[-1].code == explain.code
    assert_relevance(again(x), explain(x), 0.0)


class Branches(nn.Module):
    """What symbolic tracing cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if x.shape[-1] == 3:
            x = x + 1
        return {"logits": self.head(x), "input": x}


@pytest.mark.parametrize("example", [None, random(2, 3)], ids=["lazy", "fallback"])
def test_stages_are_those_of_the_front_end_that_could_follow(example: Tensor | None) -> None:
    explain = fxlrp.compile(Branches().double().eval(), example_inputs=example, output="logits", debug=True)
    x = random(2, 3)
    if example is None:
        with pytest.raises(InputError, match="captured at the first call"):
            _ = explain.stages
        explain(x)
    assert explain.front_end == "export"
    assert [stage.name for stage in explain.stages].count("capture") == 1
    checks = explain.check_stages(x, target=1)
    assert not checks.wrong(1e-12)


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("name", ["residual", *slow_ones("one_dimensional"), "batch_norm_after_shared_conv"])
def test_no_pass_changes_what_is_computed(name: str, capture: Any) -> None:
    model, (x,) = zoo.small_net(name)
    explain = fxlrp.compile(model, "epsilon_plus_flat", example_inputs=x, capture=capture, debug=True)
    checks = explain.check_stages(x, target=1)
    assert not checks.wrong(1e-9) and max(each.difference for each in checks.checks) < 1e-9
    assert {each.computes for each in checks.checks} == {"output", "relevance"}
    assert "no stage changes" in str(checks)


def test_stages_of_checkpoints_of_a_named_node_and_of_several_inputs() -> None:
    model, (x,) = zoo.small_net("residual")
    explain = fxlrp.compile(model, checkpoint=True, debug=True)
    assert explain.stages["checkpoint"].count > 0 and not explain.check_stages(x, target=1).wrong(1e-9)
    explain = fxlrp.compile(model, at="conv2", debug=True)
    assert not explain.check_stages(x, seed=torch.ones_like).wrong(1e-9)
    two, inputs = zoo.small_net("two_inputs")
    assert not fxlrp.compile(two, debug=True).check_stages(*inputs, target=0).wrong(1e-9)


def test_a_pass_that_changes_a_constant_is_found() -> None:
    @compiler_pass(before=["infer_dependence"])
    def changes_a_constant(program: Program) -> int:
        (add,) = [node for node in program.graph.nodes if node.target in (operator.add, torch.add)]
        add.args = (add.args[0], 1.5)
        return 1

    x = random(2, 3)
    explain = fxlrp.compile(One(lambda x: torch.relu(x) + 1.0).eval(), passes=[changes_a_constant], debug=True)
    checks = explain.check_stages(x)
    (found,) = checks.wrong()
    assert found.name == "changes_a_constant" and found.computes == "output"
    assert found.changed == pytest.approx(0.5 / float((x.relu() + 1).max()))
    assert "changes_a_constant (stage 12) is the first" in str(checks)
    after = [each for each in checks.checks if each.computes == "output"][found.index :]
    assert all(each.difference == pytest.approx(found.changed) for each in after)
    assert "1.5" in explain.stages.diff("changes_a_constant")


def test_an_optimization_that_changes_the_relevance_is_found() -> None:
    @compiler_pass(after=["emit_relevance"])
    def changes_epsilon(program: Program) -> int:
        steps = [node for node in program.graph.nodes if node.target is stabilize]
        for node in steps:
            node.args = (node.args[0], 1.0)
        return len(steps)

    model, x = conv_bn()
    options: dict[str, Any] = dict(optimize=fxlrp.Optimizations.none(), passes=[changes_epsilon], debug=True)
    checks = fxlrp.compile(model, **options).check_stages(x, target=0)
    (found,) = checks.wrong()
    assert (found.name, found.computes) == ("changes_epsilon", "relevance") and found.count > 0


def test_a_stage_that_does_not_run_is_reported() -> None:
    @compiler_pass(before=["infer_dependence"])
    def change(program: Program) -> int:
        (relu,) = [node for node in program.graph.nodes if node.target is torch.relu]
        relu.kwargs = {"nonsense": 1}
        return 1

    @compiler_pass(after=["change"])
    def repair(program: Program) -> int:
        (relu,) = [node for node in program.graph.nodes if node.target is torch.relu]
        relu.kwargs = {}
        return 1

    checks = fxlrp.compile(One(torch.relu).eval(), passes=[change, repair], debug=True).check_stages(random(2, 3))
    (found,) = checks.wrong()
    assert found.name == "change" and found.problem.startswith("TypeError") and "nonsense" in found.problem


def test_a_model_in_training_mode_is_not_run() -> None:
    model, x = conv_bn()
    explain = fxlrp.compile(model, debug=True)
    model.train()
    with pytest.raises(InputError, match="training mode"):
        explain.check_stages(x)
