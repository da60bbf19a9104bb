"""Laws 6 and 7 of docs/architecture.md: a pass is a file, and an optimization never changes an answer."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

import fxlrp
import zoo
from fxlrp.errors import InternalError
from fxlrp.passes import pipeline
from fxlrp.passes.base import Pass
from fxlrp.program import Program
from helpers import assert_is_gradient, lrp0
from law_models import residual
from oracles import assert_relevance

ORDERS = (pipeline.EXPLANATION, pipeline.BACKWARD)
NO_PASSES = {"__init__", "base", "pipeline"}


def test_every_file_of_passes_is_one_pass_in_the_order() -> None:
    files = {path.stem for path in Path(fxlrp.passes.__path__[0]).glob("*.py")} - NO_PASSES
    names = {step.name for order in ORDERS for step in order}
    assert files >= names
    for file in files:
        module = importlib.import_module(f"fxlrp.passes.{file}")
        own = [v for v in vars(module).values() if isinstance(v, Pass) and v.run.__module__ == module.__name__]
        assert own, file
        assert {step.name for step in own} <= names, file


@pytest.mark.parametrize("order", ORDERS, ids=["explainer", "backward"])
def test_what_a_pass_needs_is_provided_before_it(order: tuple[Pass, ...]) -> None:
    provided: set[str] = set()
    for step in order:
        assert step.needs <= provided, step.name
        provided |= step.provides


def counts_of(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each pass applied while `model` was compiled."""
    counts: dict[str, int] = {}

    def counting(step: Pass) -> Pass:
        def run(program: Program) -> int:
            count = step.run(program)
            counts[step.name] = counts.get(step.name, 0) + count
            return count

        return replace(step, run=run)

    monkeypatch.setattr(pipeline, "EXPLANATION", tuple(counting(step) for step in pipeline.EXPLANATION))
    explain = fxlrp.compile(model)
    annotated = sum("fxlrp" in node.meta for node in explain.nodes)
    assert counts["annotate"] == counts["emit_relevance"] == annotated
    return counts


def test_passes_count_what_they_did(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = residual()
    counts = counts_of(model, monkeypatch)
    assert counts["fold_batch_norm"] == 3
    assert counts["find_first_layers"] == 1
    assert counts["remove_identities"] == 1  # the dropout
    assert counts["functionalize"] == 4  # three calls of the in-place ReLU, one +=


@pytest.mark.parametrize(
    ("name", "folded"),
    [("batch_norm_after_shared_conv", 2), ("batch_norm_after_transposed", 1), ("three_dimensional", 1)],
)
def test_batch_norm_is_folded_where_that_is_right(name: str, folded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = zoo.small_net(name)
    assert counts_of(model, monkeypatch)["fold_batch_norm"] == folded


def test_a_pass_out_of_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "EXPLANATION", pipeline.EXPLANATION[1:])
    with pytest.raises(InternalError, match="functional"):
        fxlrp.compile(residual()[0])


def use_before_definition(program: Program) -> int:
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    nodes[0].append(nodes[-1])
    return 1


def refuse(program: Program) -> int:
    raise AssertionError("the next pass was run")


BROKEN = Pass("breaks_the_graph", use_before_definition, after=frozenset(["name_nodes"]))
NEXT = Pass("comes_next", refuse, after=frozenset(["breaks_the_graph"]))


def test_the_graph_is_checked_after_every_pass_with_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "EXPLANATION", (*pipeline.CANONICALIZE, BROKEN, NEXT))
    with pytest.raises(InternalError, match="breaks_the_graph"):
        fxlrp.compile(residual()[0], debug=True)


def test_the_graph_is_checked_after_the_last_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "EXPLANATION", (*pipeline.CANONICALIZE, BROKEN))
    with pytest.raises(InternalError, match="broken graph; compile with debug=True"):
        fxlrp.compile(residual()[0])


def test_the_graph_is_checked_after_user_defined_passes() -> None:
    with pytest.raises(InternalError, match="breaks_the_graph"):
        fxlrp.compile(residual()[0], passes=[BROKEN, NEXT])


@pytest.mark.parametrize("name", zoo.SMALL_NETS)
def test_every_pass_leaves_a_valid_graph(name: str) -> None:
    model, inputs = zoo.small_net(name)
    assert fxlrp.compile(model, example_inputs=inputs, debug=True).stages is not None


@pytest.mark.parametrize(
    "name",
    ["residual", "one_dimensional", "three_dimensional", *(n for n in zoo.SMALL_NETS if "batch_norm" in n)],
)
def test_folding_batch_norm_does_not_change_lrp0(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other rules see the folded layer, on purpose: there folding is part of what they mean."""
    model, (x,) = zoo.small_net(name)
    folded = lrp0(model, example_inputs=x)
    monkeypatch.setattr(pipeline, "EXPLANATION", tuple(s for s in pipeline.EXPLANATION if s.name != "fold_batch_norm"))
    unfolded = lrp0(model)
    assert str(unfolded).count("batch_norm") > str(folded).count("batch_norm") or "shared" in name
    assert_is_gradient(unfolded(x), model, x)
    assert_relevance(folded(x), unfolded(x), 1e-9)
