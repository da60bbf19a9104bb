"""annotate: every node gets its rule, its operands and the reason."""

import operator
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from fxlrp import rules
from fxlrp.errors import RuleError, UnsupportedOpError
from fxlrp.passes.annotate import annotate
from fxlrp.program import annotation
from pass_programs import before, program_after


def test_annotate_counts(resnet18: nn.Module) -> None:
    """20 convolutions, 17 ReLUs, 8 sums, 2 poolings, flatten and the head, once BatchNorm is folded."""
    program = program_after(before(annotate), resnet18, "epsilon_plus_flat")
    assert annotate(program) == 20 + 17 + 8 + 2 + 1 + 1 == 49
    annotated = [node for node in program.graph.nodes if annotation(node)]
    assert len(annotated) == 49
    assert not [node for node in annotated if node.op != "call_function"]
    # zennit's composite: flat for the first, z+ for the other convolutions, epsilon for the head
    of_rules = Counter(type(node.meta["fxlrp"].rule).__name__ for node in annotated)
    assert of_rules == {"Flat": 1, "ZPlus": 19, "Epsilon": 1 + 8 + 1, "PassThrough": 17 + 1, "WinnerTakesAll": 1}


def test_annotate_leaves_out_what_no_relevance_reaches(efficientnet: nn.Module) -> None:
    """16 squeeze-and-excitation gates of 5 calls each; a gate is a weight."""
    program = program_after(before(annotate), efficientnet)
    dependent = sum(node.op == "call_function" for node in program.facts.dependent)
    assert annotate(program) == 110
    assert dependent - 110 == 16 * 5
    gates = [node for node in program.facts.dependent if node.op == "call_function" and not annotation(node)]
    assert len(gates) == 80
    assert all(".block.1" in str(node.meta["nn_module_stack"]) or ".block.2" in str(node.meta) for node in gates)


def test_annotate_states_rule_operands_origin_and_reason() -> None:
    class Gated(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return torch.sigmoid(a) * (b + 1)

    program = program_after(before(annotate), Gated(), [("add", rules.Equal())])
    assert annotate(program) == 2
    add, mul = (node.meta["fxlrp"] for node in program.graph.nodes if node.target in (operator.add, operator.mul))
    assert (add.rule, add.carries, add.origin) == (rules.Equal(), (0,), "user pair 0")
    assert "add" in add.reason
    assert (mul.rule, mul.carries, mul.origin) == (rules.SignalTakeAll(), (1,), "default")
    assert "operand 0 is the gate" in mul.reason
    assert not [n for n in program.graph.nodes if n.target is torch.sigmoid and annotation(n)]


def test_annotate_changes_no_graph(resnet18: nn.Module) -> None:
    program = program_after(before(annotate), resnet18)
    unannotated = str(program.graph)
    annotate(program)
    assert str(program.graph) == unannotated


def test_annotate_lists_what_has_no_rule_in_the_order_of_the_model() -> None:
    program = program_after(
        before(annotate), lambda x: torch.linalg.inv(torch.corrcoef(x.matrix_exp())) + torch.linalg.pinv(x)
    )
    with pytest.raises(UnsupportedOpError) as caught:
        annotate(program)
    message = str(caught.value)
    assert message.startswith("4 operations")
    positions = [message.index(f"node {name!r}") for name in ("matrix_exp", "corrcoef", "linalg_inv", "linalg_pinv")]
    assert positions == sorted(positions)


def test_annotate_refuses_an_unmatched_pair() -> None:
    with pytest.raises(RuleError, match=r"user pair 1.*conv3d"):
        pairs = [("relu", rules.PassThrough()), ("conv3d", rules.ZPlus())]
        annotate(program_after(before(annotate), torch.relu, pairs))
