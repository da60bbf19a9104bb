"""The order of the passes, what each needs and provides, and the checks behind every pass."""

import importlib
import pkgutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import fxlrp
import fxlrp.passes
import zoo
from fxlrp.errors import InternalError
from fxlrp.passes import pipeline
from fxlrp.passes.annotate import annotate
from fxlrp.passes.base import Pass, compiler_pass, run_passes
from fxlrp.passes.decompose import decompose
from fxlrp.passes.fold_batch_norm import fold_batch_norm
from fxlrp.passes.functionalize import functionalize
from fxlrp.passes.normalize import normalize
from fxlrp.passes.remove_dead_code import remove_dead_code
from fxlrp.passes.remove_identities import remove_identities
from fxlrp.program import Program
from fxlrp.shapes import InputSpec, infer_values
from helpers import slow_ones
from oracles import One, assert_relevance
from pass_programs import EVERY, before, program_after, program_of, value


def declared() -> dict[str, Pass]:
    """Every pass that a file in passes/ declares, by name."""
    found: dict[str, Pass] = {}
    for info in pkgutil.iter_modules(fxlrp.passes.__path__):
        module = importlib.import_module(f"fxlrp.passes.{info.name}")
        for item in vars(module).values():
            if isinstance(item, Pass) and item.run.__module__ == module.__name__:
                assert item.name == info.name, "a pass is named after its file"
                found[item.name] = item
    return found


def test_every_pass_is_in_the_pipeline() -> None:
    assert declared().keys() == {
        "annotate",
        "carry_quotients",
        "check_inputs",
        "checkpoint",
        "decompose",
        "emit_backward",
        "emit_relevance",
        "find_first_layers",
        "find_weights",
        "fold_batch_norm",
        "functionalize",
        "fuse_attention",
        "gather_again",
        "infer_dependence",
        "infer_finite",
        "infer_signs",
        "infer_support",
        "infer_values",
        "keep_constants",
        "keep_pool_indices",
        "merge_layouts",
        "name_nodes",
        "nest_regions",
        "normalize",
        "read_redistributed",
        "read_whole_positions",
        "recognize_attention",
        "recompute_values",
        "release_values",
        "remove_dead_code",
        "remove_identities",
        "reuse_memory",
        "select_positions",
        "share_across_batch",
        "share_among_questions",
        "stack_questions",
        "start_inside",
    }
    assert {each.name: each for each in (*EVERY, *pipeline.BACKWARD)} == declared()


def test_a_file_in_passes_holds_one_pass_or_none() -> None:
    without = {info.name for info in pkgutil.iter_modules(fxlrp.passes.__path__)} - declared().keys()
    assert without == {"base", "pipeline"}


def test_the_order_satisfies_every_need() -> None:
    provided: set[str] = set()
    for each in EVERY:
        assert each.needs <= provided, each.name
        provided |= each.provides
    assert provided >= {"functional", "canonical", "annotated", "relevance"}


@pytest.mark.parametrize("each", [p for p in declared().values() if p.needs], ids=lambda p: p.name)
def test_a_pass_without_what_it_needs(each: Pass) -> None:
    """On a fresh program, and on one that lacks only one of several properties."""
    for missing in each.needs:
        program = program_of(lambda x: x.relu())
        program.properties = set(each.needs) - {missing}
        untouched = str(program.graph)
        with pytest.raises(InternalError, match=f"{each.name}.*{missing}"):
            each(program)
        assert str(program.graph) == untouched


def test_a_pass_says_what_it_provides_only_after_it_ran() -> None:
    program = program_of(lambda x: x.relu())
    assert program.properties == set()
    functionalize(program)
    assert program.properties == {"functional"}


def test_run_passes_returns_the_counts() -> None:
    program = program_of(lambda x: torch.relu_(F.dropout(x + 1, 0.5, False)))
    counts = run_passes(program, (functionalize, normalize, decompose, remove_identities))
    assert counts["functionalize"] == 1 and counts["remove_identities"] == 1
    assert list(counts) == ["functionalize", "normalize", "decompose", "remove_identities"]


def test_a_repeated_pass_is_counted_in_full() -> None:
    """Two runs of one pass in a list: neither count hides the other's."""

    class ShapeOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.linear(x).exp()
            return self.linear(x)

    program = program_of(ShapeOnly())
    run_passes(program, (functionalize, normalize))
    counts = run_passes(program, (remove_dead_code, remove_dead_code))
    assert counts["remove_dead_code"] == 2


def reads_ahead(program: Program) -> int:
    """The first call reads the last one's value."""
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    nodes[0].args = (nodes[-1],)
    return 1


def reads_a_missing_attribute(program: Program) -> int:
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    nodes[0].op, nodes[0].target, nodes[0].args, nodes[0].kwargs = "get_attr", "model.nothing", (), {}
    return 1


def reads_another_graph(program: Program) -> int:
    (stranger,) = (node for node in fx.symbolic_trace(One(torch.relu)).graph.nodes if node.op == "placeholder")
    next(node for node in program.graph.nodes if node.op == "call_function").args = (stranger,)
    return 1


@pytest.mark.parametrize("broken", [reads_ahead, reads_a_missing_attribute, reads_another_graph])
def test_a_pass_that_breaks_the_graph_is_caught_behind_it(broken: Callable[[Program], int]) -> None:
    program = program_after((functionalize, normalize), lambda x: torch.relu(x).tanh().sigmoid())
    with pytest.raises(InternalError, match=broken.__name__):
        compiler_pass(provides=["nothing"])(broken)(program)
    assert "nothing" not in program.properties


@pytest.mark.parametrize("broken", [reads_ahead, reads_a_missing_attribute, reads_another_graph])
def test_a_pass_that_breaks_the_graph_and_reports_nothing_is_caught_in_the_end(
    broken: Callable[[Program], int],
) -> None:
    def silent(program: Program) -> int:
        broken(program)
        return 0

    program = program_after((functionalize, normalize), lambda x: torch.relu(x).tanh().sigmoid())
    with pytest.raises(InternalError, match="broken graph"):
        run_passes(program, (compiler_pass()(silent), remove_identities))


def test_a_pass_sees_the_code_of_the_graph_as_it_is() -> None:
    seen: list[str] = []

    def add_one(program: Program) -> int:
        output = program.graph.output_node()
        with program.graph.inserting_before(output):
            output.args = (program.graph.call_function(torch.add, (output.args[0], 1)),)
        program.graph_module.recompile()
        seen.extend([program.graph_module.code, str(program.graph_module)])
        return 1

    program = program_of(torch.tanh)
    before = program.graph_module.code
    run_passes(program, (compiler_pass()(add_one),))
    assert "tanh" in before and "add" not in before
    assert all("tanh" in each and "add" in each for each in seen)
    x = torch.linspace(-1, 1, 12).view(2, 6)
    torch.testing.assert_close(program.graph_module(x), torch.tanh(x) + 1)


def test_an_unbroken_pass_is_not_caught() -> None:
    def nothing(program: Program) -> int:
        return 7

    program = program_of(torch.relu)
    assert compiler_pass(provides=["something"])(nothing)(program) == 7
    assert "something" in program.properties


SMALL, LARGE = ("resnet18", "mobilenet_v3_small"), ("googlenet", "densenet121", "shufflenet_v2_x0_5", "efficientnet_b0")


@pytest.mark.parametrize("name", [*SMALL, *slow_ones(*LARGE), *zoo.SMALL_NETS])
def test_the_forward_value_is_the_models_after_every_pass(name: str) -> None:
    if name in (*SMALL, *LARGE):
        model, x = zoo.calibrated(name)
        inputs: tuple[Tensor, ...] = (x,)
    else:
        model, inputs = zoo.small_net(name)
    with torch.no_grad():
        expected = model(*(x.clone() for x in inputs))
    program = program_of(model)
    assert_relevance(value(program, *inputs), expected, 1e-12)
    for each in before(annotate):
        if each is fold_batch_norm and name.startswith("batch_norm_after_linear"):
            # as compile() does with example inputs, which these nets need
            program.facts.values = infer_values(program.graph_module, program.graph, [InputSpec.of(inputs[0])]).values
        each(program)
        assert_relevance(value(program, *inputs), expected, 1e-11)
