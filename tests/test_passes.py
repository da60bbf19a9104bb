"""Each pass by itself: what it does to a small graph, and how often it applies in a model whose parts can be counted.

The counts are literal numbers; beside each stands an independent count over the model's modules, over the kernels
that the model runs, or over the graph. After every pass the graph still computes what the model computes.
"""

import copy
import importlib
import operator
import pkgutil
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import fxlrp
import fxlrp.passes
import zoo
from fxlrp import presets, rules
from fxlrp.capture.symbolic import capture
from fxlrp.errors import CaptureError, InternalError, RuleError, UnsupportedOpError
from fxlrp.operation import Family
from fxlrp.passes import pipeline
from fxlrp.passes.annotate import annotate
from fxlrp.passes.base import Pass, compiler_pass, run_passes
from fxlrp.passes.decompose import DECOMPOSITIONS, decompose
from fxlrp.passes.emit_relevance import emit_relevance
from fxlrp.passes.find_first_layers import find_first_layers
from fxlrp.passes.fold_batch_norm import fold_batch_norm, folded_bias, folded_weight
from fxlrp.passes.functionalize import functionalize
from fxlrp.passes.infer_dependence import infer_dependence
from fxlrp.passes.name_nodes import name_nodes
from fxlrp.passes.normalize import normalize
from fxlrp.passes.remove_dead_code import remove_dead_code
from fxlrp.passes.remove_identities import remove_identities
from fxlrp.program import Program, annotation
from fxlrp.rules.presets import resolve
from fxlrp.shapes import InputSpec, infer_values
from fxlrp.vocabulary import CANONICAL
from oracles import One, Two, assert_relevance, random, randomize

EVERY = (
    *(*pipeline.CANONICALIZE, *pipeline.SIMPLIFY, *pipeline.ANALYZE, *pipeline.ANNOTATE),
    *(*pipeline.SPECIALIZE, *pipeline.EMIT, *pipeline.CHECKPOINT, *pipeline.OPTIMIZE),
)


def before(each: Pass) -> tuple[Pass, ...]:
    """The passes of the pipeline that run before the first run of this one."""
    return EVERY[: EVERY.index(each)]


def program_of(model: nn.Module | Callable[..., Tensor], rules: Any = None) -> Program:
    model = model if isinstance(model, nn.Module) else One(model)
    return Program(capture(model.eval()), CANONICAL, resolve(rules))


def program_after(passes: Sequence[Pass], model: nn.Module | Callable[..., Tensor], rules: Any = None) -> Program:
    program = program_of(model, rules)
    run_passes(program, passes)
    return program


def value(program: Program, *inputs: Tensor) -> Tensor:
    program.graph_module.recompile()
    with torch.no_grad():
        result = program.graph_module(*(x.clone() for x in inputs))
    assert isinstance(result, Tensor)
    return result


def calls(program: Program) -> list[Any]:
    return [node.target for node in program.graph.nodes if node.op.startswith("call")]


def node_named(program: Program, name: str) -> fx.Node:
    (node,) = (node for node in program.graph.nodes if node.name == name)
    return node


def names(program: Program) -> list[str]:
    return [node.name for node in program.graph.nodes]


def modules_of(model: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


class InPlace(TorchDispatchMode):
    """Counts the kernels that write into their arguments while a model runs."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._schema.is_mutable
        return func(*args, **(kwargs or {}))


def in_place_kernels(model: nn.Module, *inputs: Tensor) -> int:
    with InPlace() as mode, torch.no_grad():
        model(*inputs)
    return mode.count


def module_calls(model: nn.Module, kind: type[nn.Module]) -> int:
    """How often modules of this kind run in one forward pass; the model is a copy of its own."""
    model, count = copy.deepcopy(model), 0

    def tick(*_: Any) -> None:
        nonlocal count
        count += 1

    for module in model.modules():
        if isinstance(module, kind):
            module.register_forward_hook(tick)
    with torch.no_grad():
        model(zoo.images(1, 32))
    return count


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return zoo.calibrated("resnet18")[0]


@pytest.fixture(scope="module")
def efficientnet() -> nn.Module:
    return zoo.calibrated("efficientnet_b0")[0]


# ----------------------------------------------------------------------------------------------------
# The pipeline


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
        "checkpoint",
        "decompose",
        "emit_backward",
        "emit_relevance",
        "find_first_layers",
        "fold_batch_norm",
        "functionalize",
        "infer_dependence",
        "infer_signs",
        "infer_support",
        "keep_constants",
        "keep_pool_indices",
        "name_nodes",
        "normalize",
        "remove_dead_code",
        "remove_identities",
        "reuse_memory",
        "share_across_batch",
    }
    into_a_backward = (*pipeline.EMIT_BACKWARD, *pipeline.OPTIMIZE_BACKWARD)
    assert {each.name: each for each in (*EVERY, *into_a_backward)} == declared()


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


def test_an_unbroken_pass_is_not_caught() -> None:
    def nothing(program: Program) -> int:
        return 7

    program = program_of(torch.relu)
    assert compiler_pass(provides=["something"])(nothing)(program) == 7
    assert "something" in program.properties


MODELS = ["resnet18", "googlenet", "densenet121", "mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0"]


@pytest.mark.parametrize("name", [*MODELS, *zoo.SMALL_NETS])
def test_the_forward_value_is_the_models_after_every_pass(name: str) -> None:
    if name in MODELS:
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
            program.values = infer_values(program.graph_module, program.graph, [InputSpec.of(inputs[0])])
        each(program)
        assert_relevance(value(program, *inputs), expected, 1e-11)


# ----------------------------------------------------------------------------------------------------
# functionalize


def linear(x: Tensor) -> Tensor:
    return F.linear(x, WEIGHT)


WEIGHT = random(6, 6, seed=3)
X = random(2, 6, seed=4)


def add_(x: Tensor) -> Tensor:
    h = linear(x)
    early = h.sigmoid()
    h.add_(1)
    return h * early + h


def relu_used_later(x: Tensor) -> Tensor:
    h = linear(x)
    y = torch.relu_(h)
    return h - 2 * y


def relu_module_used_later(x: Tensor) -> Tensor:
    h = linear(x)
    F.relu(h, inplace=True)
    return h.flatten(1)


def relu_keyword(x: Tensor) -> Tensor:
    h = linear(x)
    F.relu(input=h, inplace=True)
    return h + 1


def positional_inplace(x: Tensor) -> Tensor:
    h = linear(x)
    F.leaky_relu(h, 0.1, True)
    return h


def chained(x: Tensor) -> Tensor:
    h = linear(x)
    h.add_(1).relu_().mul_(2)
    return h


def twice(x: Tensor) -> Tensor:
    h = linear(x)
    h += 1
    g = h
    g *= 2
    g.relu_()
    return h + x


def through_a_view(x: Tensor) -> Tensor:
    h = linear(x).view(-1, 2, 3)
    h.relu_()
    return h.flatten(1)


def argument_twice(x: Tensor) -> Tensor:
    h = linear(x)
    h.add_(h)
    return torch.cat([h, h], 1)


def inside_a_list(x: Tensor) -> Tensor:
    h, g = linear(x), x + 1
    h.relu_()
    g.neg_()
    return torch.cat([h, g], dim=1) + torch.stack((g, h)).sum(0).repeat(1, 2)


def by_operator(x: Tensor) -> Tensor:
    h = linear(x)
    operator.iadd(h, x)
    operator.isub(h, 1)
    operator.itruediv(h, 2)
    return h


def dead_in_place_calls(x: Tensor) -> Tensor:
    h = linear(x)
    h.clamp_(min=0)
    torch.relu_(h)
    F.hardtanh_(h)
    return h


def item_assignment(x: Tensor) -> Tensor:
    h = linear(x)
    h[:, 1] = 0
    h[:, 2:4] = x[:, :2]
    return h


def the_input_itself(x: Tensor) -> Tensor:
    x += 1
    x.relu_()
    return linear(x)


IN_PLACE: dict[Callable[[Tensor], Tensor], int] = {
    add_: 1,
    relu_used_later: 1,
    relu_module_used_later: 1,
    relu_keyword: 1,
    positional_inplace: 1,
    chained: 3,
    twice: 3,
    through_a_view: 1,
    argument_twice: 1,
    inside_a_list: 2,
    by_operator: 3,
    dead_in_place_calls: 3,
    item_assignment: 2,
    the_input_itself: 2,
}


@pytest.mark.parametrize("function", IN_PLACE, ids=lambda f: f.__name__)
def test_functionalize(function: Callable[[Tensor], Tensor]) -> None:
    """Later uses read the change, earlier ones do not, and dead-code removal loses none."""
    program = program_of(function)
    assert functionalize(program) == IN_PLACE[function]
    x = X.clone()
    expected = function(x.clone())
    assert_relevance(value(program, x), expected, 1e-13)
    # Only the out-of-place meaning is left: nothing is written, and unused calls may go.
    normalize(program)
    remove_dead_code(program)
    program.graph_module.recompile()
    assert in_place_kernels(program.graph_module, x) in (0, 2 * (function is item_assignment))
    assert torch.equal(x, X)
    assert_relevance(value(program, x), expected, 1e-13)


def test_functionalize_with_uses_before_and_after() -> None:
    program = program_of(add_)
    functionalize(program)
    (added,) = (node for node in program.graph.nodes if "add_" in str(node.target))
    (sigmoid,) = (node for node in program.graph.nodes if "sigmoid" in str(node.target))
    assert [node.name for node in sigmoid.all_input_nodes] == ["linear"]
    assert {user.target for user in added.users} == {operator.mul, operator.add}


def view_with_base_used_later(x: Tensor) -> Tensor:
    base = linear(x)
    view = base.view(-1, 2, 3)
    view.relu_()
    return base


def base_with_view_used_later(x: Tensor) -> Tensor:
    base = linear(x)
    view = base[:, :3]
    base.relu_()
    return view


def view_of_a_view(x: Tensor) -> Tensor:
    base = linear(x)
    base.view(-1, 2, 3).transpose(1, 2).relu_()
    return base


def sibling_views(x: Tensor) -> Tensor:
    left, right = linear(x).view(-1, 2, 3), linear(x)
    other = right.unsqueeze(0)
    right.unsqueeze(1).relu_()
    return left.flatten(1) + other.squeeze(0)


def part_of_a_chunk(x: Tensor) -> Tensor:
    base = linear(x)
    base.chunk(2, 1)[0].relu_()
    return base


def detached(x: Tensor) -> Tensor:
    base = linear(x)
    base.detach().relu_()
    return base


def view_by_keyword(x: Tensor) -> Tensor:
    base = linear(x)
    torch.flatten(input=base, start_dim=1).relu_()
    return base


def view_as(x: Tensor) -> Tensor:
    base = linear(x)
    base.view_as(x).relu_()
    return base


def matrix_transpose(x: Tensor) -> Tensor:
    base = linear(x)
    base.t().relu_()
    return base


def transpose_attribute(x: Tensor) -> Tensor:
    base = linear(x)
    base.mT.relu_()
    return base


def data_attribute(x: Tensor) -> Tensor:
    base = linear(x)
    base.data.relu_()
    return base


def diagonal(x: Tensor) -> Tensor:
    base = linear(x)
    base.diagonal().zero_()
    return base


def unfolded(x: Tensor) -> Tensor:
    base = linear(x)
    base.unfold(1, 2, 2).relu_()
    return base


def swapped(x: Tensor) -> Tensor:
    base = linear(x)
    base.swapaxes(0, 1).relu_()
    return base


def assigned_through_a_view(x: Tensor) -> Tensor:
    base = linear(x)
    base[0][:, None][1] = 0
    return base


@pytest.mark.parametrize(
    "function",
    [
        view_with_base_used_later,
        base_with_view_used_later,
        view_of_a_view,
        sibling_views,
        part_of_a_chunk,
        detached,
        view_by_keyword,
        view_as,
        matrix_transpose,
        transpose_attribute,
        data_attribute,
        diagonal,
        unfolded,
        swapped,
        assigned_through_a_view,
    ],
    ids=lambda f: f.__name__,
)
def test_functionalize_refuses_a_change_that_reaches_another_value(function: Callable[[Tensor], Tensor]) -> None:
    """Memory that two values share: refused, with the names of both and the line; or followed, but never lost."""
    program = program_of(function)
    try:
        functionalize(program)
    except CaptureError as error:
        assert "in-place" in str(error) and "test_passes.py" in str(error)
        assert sum(f"{node.name!r}" in str(error) for node in program.graph.nodes) >= 2, error
        return
    run_passes(program, (normalize, remove_dead_code))
    assert_relevance(value(program, X), function(X.clone()), 1e-13)


def test_functionalize_names_what_it_refuses() -> None:
    program = program_of(view_with_base_used_later)
    with pytest.raises(CaptureError, match=r"'linear'.*'output'.*'relu_'.*test_passes.py.*view\.relu_\(\)"):
        functionalize(program)


class ChangesItsWeight(nn.Module):
    def __init__(self, change: Callable[[nn.Module], None]) -> None:
        super().__init__()
        self.weight = nn.Parameter(random(6, 6))
        self.register_buffer("seen", torch.zeros(6, dtype=torch.float64))
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        self.change(self)
        return F.linear(x, self.weight) + self.seen


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.weight.mul_(2),
        lambda m: operator.iadd(m.seen, 1),
        lambda m: m.seen.add_(1),
        lambda m: m.weight.view(-1).relu_(),
        lambda m: m.weight.t().mul_(2),
        lambda m: m.weight[0].zero_(),
        lambda m: m.weight.data.mul_(2),
        lambda m: F.relu(m.weight, inplace=True),
    ],
    ids=["mul_", "iadd", "buffer", "view", "t", "row", "data", "inplace"],
)
def test_functionalize_refuses_a_change_of_a_parameter(change: Callable[[nn.Module], Any]) -> None:
    model = ChangesItsWeight(change).eval()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(CaptureError, match=r"parameter or buffer in place.*test_passes.py"):
        program = program_of(model)
        functionalize(program)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def ipow(x: Tensor) -> Tensor:
    h = linear(x)
    alias = h
    alias **= 2
    return h


def ifloordiv(x: Tensor) -> Tensor:
    h = linear(x)
    alias = h
    alias //= 2
    return h


def exp_(x: Tensor) -> Tensor:
    h = linear(x)
    h.exp_()
    return h


def out_argument(x: Tensor) -> Tensor:
    h = linear(x)
    torch.mul(h, 2, out=h)
    return h


def copy_(x: Tensor) -> Tensor:
    h = linear(x)
    h.copy_(x.sigmoid())
    return h


@pytest.mark.parametrize("function", [ipow, ifloordiv, exp_, out_argument, copy_], ids=lambda f: f.__name__)
def test_in_place_operations_without_a_rule_are_not_lost(function: Callable[[Tensor], Tensor]) -> None:
    """No rule knows these, so the answer is an error that names the line, never a graph without them."""
    try:
        fxlrp.compile(One(function).eval(), capture="symbolic")
    except (CaptureError, UnsupportedOpError) as error:
        assert "test_passes.py" in str(error)
    else:
        program = program_after((functionalize, normalize, remove_dead_code), function)
        assert_relevance(value(program, X), function(X.clone()), 1e-13)


def test_a_size_that_is_counted_up_is_no_change_of_a_tensor() -> None:
    def function(x: Tensor) -> Tensor:
        width = x.shape[1]
        width += 6
        width //= 2
        return linear(x).reshape(-1, width)

    program = program_of(function)
    assert functionalize(program) == 0
    assert_relevance(value(program, X), function(X), 1e-13)


@pytest.mark.parametrize(
    ("name", "count"),
    [("alexnet", 7), ("resnet18", 25), ("squeezenet1_1", 26), ("densenet121", 121), ("shufflenet_v2_x0_5", 37)],
)
def test_functionalize_counts(name: str, count: int) -> None:
    """As many as the model runs in-place kernels; in resnet18 17 ReLUs and 8 `+=`."""
    model = zoo.build(name)
    assert in_place_kernels(model, zoo.model_images(name, 1)) == count
    assert functionalize(program_of(model)) == count


def test_functionalize_counts_in_place_dropout_too() -> None:
    """MobileNetV3 has 30 kernels in place, and one dropout that would be in training mode."""
    model = zoo.build("mobilenet_v3_small")
    assert in_place_kernels(model, zoo.images(1, 32)) == 30
    assert sum(isinstance(module, nn.Dropout) and module.inplace for module in model.modules()) == 1
    assert functionalize(program_of(model)) == 31


# ----------------------------------------------------------------------------------------------------
# normalize


def test_normalize_leaves_canonical_calls_only() -> None:
    def function(x: Tensor) -> Tensor:
        y = torch.relu_(x.add(1)).mul(2).sub_(x)
        y = F.leaky_relu(y, negative_slope=0.2, inplace=True).view(2, 3, -1)
        return torch.sum(y.transpose(1, 2).contiguous(), axis=1)

    program = program_after((functionalize, normalize), function)
    operations = [CANONICAL.operation(node) for node in program.graph.nodes if node.op == "call_function"]
    assert [operation.name for operation in operations if operation] == [
        "add_scaled",
        "relu",
        "mul",
        "sub_scaled",
        "leaky_relu",
        "reshape",
        "transpose",
        "contiguous",
        "sum",
    ]
    assert {node.op for node in program.graph.nodes} == {"placeholder", "call_function", "output"}
    for node in program.graph.nodes:
        operation = CANONICAL.operation(node)
        assert operation is None or node.target is operation.function
    assert not [n for n in program.graph.nodes if "inplace" in n.kwargs or "axis" in n.kwargs]
    assert_relevance(value(program, X), function(X), 1e-13)


def test_normalize_writes_arguments_in_the_shortest_way() -> None:
    program = program_after(
        (functionalize, normalize), lambda x: torch.flatten(input=F.hardtanh(x, -1.0, 2.0), start_dim=0)
    )
    hardtanh, flatten = (node for node in program.graph.nodes if node.op == "call_function")
    assert hardtanh.args == (node_named(program, "x"),) and hardtanh.kwargs == {"max_val": 2.0}
    assert flatten.args == (hardtanh,) and flatten.kwargs == {}


def test_normalize_again_finds_nothing(resnet18: nn.Module) -> None:
    program = program_after((functionalize, normalize), resnet18)
    once = str(program.graph)
    assert normalize(program) == 0
    assert str(program.graph) == once


def test_normalize_counts(resnet18: nn.Module) -> None:
    """All calls but the average pooling, which is canonical as it is; whatever changes about a node, it counts once."""
    program = program_after((functionalize,), resnet18)
    old = {node.name: (node.op, node.target, node.args, node.kwargs) for node in program.graph.nodes}
    count = normalize(program)
    new = {node.name: (node.op, node.target, node.args, node.kwargs) for node in program.graph.nodes}
    changed = [name for name in new if name in old and old[name] != new[name]]
    assert count == len(changed) == 68
    # 20 convolutions, 20 BatchNorms, 17 ReLUs, 8 sums, 2 poolings, flatten and the head
    assert 20 + 20 + 17 + 8 + 2 + 1 + 1 == len(calls(program)) == 69
    assert "adaptive_avg_pool2d" not in changed


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: F.dropout(x, 0.5), "training=True"),
        (lambda x: F.batch_norm(x, None, None, training=True), "training=True"),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "rounding_mode='floor'"),
        (lambda x: x.real, "'real'"),
    ],
    ids=["dropout", "batch_norm", "div", "attribute"],
)
def test_normalize_refuses_what_it_would_change(function: Callable[[Tensor], Tensor], named: str) -> None:
    program = program_after((functionalize,), function)
    with pytest.raises(CaptureError, match=f"{named}.*test_passes.py"):
        normalize(program)


UNUSUAL: dict[str, Callable[[Tensor], Tensor]] = {
    "to_device_dtype": lambda x: x.to("cpu", torch.float32),
    "to_device_dtype_copy": lambda x: x.to("cpu", torch.float32, False, True),
    "to_dtype_positional": lambda x: x.to(torch.float32, True),
    "to_other": lambda x: x.to(WEIGHT),
    "to_dtype": lambda x: x.to(dtype=torch.float32),
    "to_device": lambda x: x.to(device="cpu"),
    "to_device_dtype_keywords": lambda x: x.to(device="cpu", dtype=torch.float32),
    "to_dtype_format": lambda x: x.to(torch.float32, memory_format=torch.preserve_format),
    "to_format": lambda x: x.to(memory_format=torch.preserve_format),
    "type_as": lambda x: x.type_as(WEIGHT),
    "split_size": lambda x: x.split(split_size=3, dim=1)[0],
    "split_sizes": lambda x: x.split([2, 4], 1)[1],
    "reshape": lambda x: x.reshape(shape=(2, 6)),
    "view_size": lambda x: x.view(size=(2, 6)),
    "swapaxes_keywords": lambda x: x.swapaxes(axis0=0, axis1=1),
    "torch_dropout": lambda x: torch.dropout(x, p=0.5, train=False),
    "clamp_max": lambda x: torch.clamp(x, None, 0.5),
    "expand": lambda x: x.expand(3, -1, -1),
    "repeat": lambda x: x.repeat(2, 1),
    "transpose_keyword": lambda x: torch.transpose(x, 0, dim1=1),
    "mean_axis": lambda x: x.mean(axis=1, keepdim=True),
    "sum_dims": lambda x: torch.sum(x, (0, 1), True),
    "flip": lambda x: x.flip(0, 1) + torch.flip(x, dims=[0]),
    "where_method": lambda x: x.where(x > 0, 0.25 * x),
}


@pytest.mark.parametrize("function", UNUSUAL.values(), ids=list(UNUSUAL))
def test_normalize_keeps_the_meaning_of_unusual_spellings(function: Callable[[Tensor], Tensor]) -> None:
    """dtype and values are those of the call, however it is written; a refusal is an error of fxlrp's own."""
    program = program_after((functionalize, normalize), function)
    assert_relevance(value(program, X), function(X), 1e-13)
    try:
        fxlrp.compile(One(function).eval(), capture="symbolic")
    except (CaptureError, UnsupportedOpError) as error:
        assert "test_passes.py" in str(error)


# ----------------------------------------------------------------------------------------------------
# decompose


@pytest.mark.parametrize(
    ("function", "made"),
    [
        (lambda x: torch.rsub(x, 3), [operator.sub]),
        (lambda x: torch.rsub(x, 3, alpha=2), [operator.mul, operator.sub]),
        (lambda x: torch.add(x, x, alpha=2), [operator.mul, operator.add]),
        (lambda x: torch.sub(x, 1, alpha=0.5), [operator.mul, operator.sub]),
        (lambda x: x.add(4), [operator.add]),
        (lambda x: F.glu(x), [torch.chunk, operator.getitem, operator.getitem, torch.sigmoid, operator.mul]),
        (
            lambda x: F.glu(x, dim=0),
            [torch.chunk, operator.getitem, operator.getitem, torch.sigmoid, operator.mul],
        ),
        (lambda x: x.where(x > 0, x * 2), [operator.gt, operator.mul, torch.where]),
    ],
    ids=["rsub", "rsub_alpha", "add_alpha", "sub_alpha", "add", "glu", "glu_dim", "where"],
)
def test_decompose(function: Callable[[Tensor], Tensor], made: list[Any]) -> None:
    program = program_after((functionalize, normalize), function)
    assert decompose(program) == 1
    assert sorted(map(str, calls(program))) == sorted(map(str, made))
    assert_relevance(value(program, X), function(X), 1e-13)


def test_decompose_keeps_name_module_and_line() -> None:
    program = program_after((functionalize, normalize), nn.Sequential(nn.Linear(6, 6), nn.GLU()))
    (glu,) = (node for node in program.graph.nodes if node.target is F.glu)
    name, stack = glu.name, glu.meta["nn_module_stack"]
    decompose(program)
    assert node_named(program, name).target is operator.mul
    for node in program.graph.nodes:
        if node.target in (torch.chunk, operator.getitem, torch.sigmoid, operator.mul):
            assert node.meta["nn_module_stack"] == stack


def test_decompose_counts() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gates = nn.Sequential(nn.GLU(), nn.GLU())

        def forward(self, x: Tensor) -> Tensor:
            x = self.gates(x.repeat(1, 4))
            return torch.add(x, x, alpha=3) + torch.rsub(x, 1)

    model = Many()
    program = program_after((functionalize, normalize), model)
    assert decompose(program) == modules_of(model, nn.GLU) + 2 == 4
    assert decompose(program) == 0
    assert_relevance(value(program, X), model(X), 1e-13)


def test_every_composite_operation_has_a_decomposition() -> None:
    composites = {op.name for op in CANONICAL.operations.values() if op.family is Family.COMPOSITE}
    assert composites == set(DECOMPOSITIONS)


# ----------------------------------------------------------------------------------------------------
# remove_identities, remove_dead_code

CANONICAL_PASSES = (functionalize, normalize, decompose)


def test_remove_identities() -> None:
    def function(x: Tensor) -> Tensor:
        y = F.dropout(x.clone(), 0.3, training=False)
        torch._assert(y.dim() == 2, "two dimensions")
        y = y.contiguous().detach() + x
        return F.alpha_dropout(y, training=False)

    program = program_after(CANONICAL_PASSES, function)
    assert remove_identities(program) == 6
    run_passes(program, (remove_dead_code,))
    assert calls(program) == [operator.add]
    (added,) = (node for node in program.graph.nodes if node.target is operator.add)
    assert added.args == (node_named(program, "x"),) * 2
    assert_relevance(value(program, X), function(X), 1e-13)


@pytest.mark.parametrize(
    ("name", "count", "kinds"),
    [
        ("resnet18", 0, ()),
        ("alexnet", 2, (nn.Dropout,)),
        ("googlenet", 1, (nn.Dropout,)),
        ("efficientnet_b0", 10, (nn.Dropout, zoo.torchvision.ops.StochasticDepth)),
        ("convnext_tiny", 18, (zoo.torchvision.ops.StochasticDepth,)),
    ],
)
def test_remove_identities_counts(name: str, count: int, kinds: tuple[type[nn.Module], ...]) -> None:
    """As often as dropout and stochastic depth run; efficientnet_b0 has 16 of the latter and calls 9."""
    model = zoo.build(name)
    if name not in ("alexnet",):  # whose images must be larger
        assert sum(module_calls(model, kind) for kind in kinds) == count
    assert remove_identities(program_after(CANONICAL_PASSES, model)) == count


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


# ----------------------------------------------------------------------------------------------------
# name_nodes


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
    """The first call of a module has its name, the second the number 1, whatever other calls were named before."""

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
        "relu",
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


# ----------------------------------------------------------------------------------------------------
# fold_batch_norm


def batch_norms(program: Program) -> int:
    return sum(node.target is F.batch_norm for node in program.graph.nodes)


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize(
    "make",
    [
        lambda bias: (nn.Conv1d(4, 6, 3, bias=bias, groups=2), nn.BatchNorm1d, (4, 5)),
        lambda bias: (nn.Conv2d(4, 6, 3, bias=bias), nn.BatchNorm2d, (4, 5, 5)),
        lambda bias: (nn.Conv3d(4, 6, 3, bias=bias), nn.BatchNorm3d, (4, 5, 5, 5)),
        lambda bias: (nn.ConvTranspose1d(4, 6, 3, bias=bias, stride=2), nn.BatchNorm1d, (4, 5)),
        lambda bias: (nn.ConvTranspose2d(4, 6, 3, bias=bias, groups=2), nn.BatchNorm2d, (4, 5, 5)),
        lambda bias: (nn.ConvTranspose3d(4, 6, 3, bias=bias), nn.BatchNorm3d, (4, 5, 5, 5)),
        lambda bias: (nn.Linear(4, 6, bias=bias), nn.BatchNorm1d, (4,)),
    ],
    ids=["conv1d", "conv2d", "conv3d", "transpose1d", "transpose2d", "transpose3d", "linear"],
)
def test_fold_batch_norm(make: Callable[[bool], Any], bias: bool, affine: bool) -> None:
    layer, norm, shape = make(bias)
    model = nn.Sequential(layer, norm(6, affine=affine, eps=0.03))
    randomize(model)
    x = random(3, *shape)
    program = program_after(before(fold_batch_norm), model)
    program.values = {"_0": InputSpec.of(model[0](x))}
    assert fold_batch_norm(program) == 1
    assert batch_norms(program) == 0
    assert_relevance(value(program, x), model(x).detach(), 1e-12)


def test_folded_weights_are_the_textbooks() -> None:
    weight, scale = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([2.0, 3.0])
    variance, mean = torch.tensor([3.0, 15.0]), torch.tensor([1.0, 2.0])
    folded = folded_weight(weight, scale, variance, eps=1.0)  # rows times 2/2 and 3/4
    torch.testing.assert_close(folded, torch.tensor([[1.0, 2.0], [2.25, 3.0]]))
    torch.testing.assert_close(
        folded_bias(torch.tensor([5.0, 6.0]), scale, torch.tensor([0.5, 0.25]), mean, variance, eps=1.0),
        torch.tensor([4.5, 3.25]),
    )
    torch.testing.assert_close(folded_bias(None, None, None, mean, variance, eps=1.0), torch.tensor([-0.5, -0.5]))


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.bn(x) + x


class AfterAnActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x).relu())


class OneBatchNormTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.bn = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.a(x)) + self.bn(self.b(x))


class OneConvolutionTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn1, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv(self.bn1(self.conv(x)).relu()))


class Leading(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.bn(x))


class TwoBatchNorms(nn.Module):
    """The second reads a linear map too, once the first is folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn1, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.bn1(self.conv(x)))


class WeightFromTheInput(nn.Module):
    """The convolution reads its input as its weight would be read: nothing may be folded into what depends on it."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(F.conv2d(x, x[:, :, :1, :1].mean(0, keepdim=True).expand(3, 3, 1, 1)))


@pytest.mark.parametrize(
    ("model", "count", "left"),
    [
        (TwoReaders, 0, 1),
        (AfterAnActivation, 0, 1),
        (OneBatchNormTwice, 2, 0),
        (OneConvolutionTwice, 2, 0),
        (Leading, 0, 1),
        (TwoBatchNorms, 2, 0),
    ],
)
def test_fold_batch_norm_where_it_is_right(model: type[nn.Module], count: int, left: int) -> None:
    made = randomize(model())
    x = random(2, 3, 4, 4)
    program = program_after(before(fold_batch_norm), made)
    assert fold_batch_norm(program) == count
    assert batch_norms(program) == left
    assert_relevance(value(program, x), made(x).detach(), 1e-12)


def test_fold_batch_norm_keeps_the_value_where_the_weight_depends_on_the_input() -> None:
    model = randomize(WeightFromTheInput())
    x = random(2, 3, 4, 4)
    program = program_after(before(fold_batch_norm), model)
    fold_batch_norm(program)
    assert_relevance(value(program, x), model(x).detach(), 1e-12)


class FlattenedFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.bn = nn.Linear(8, 5), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.linear(x.flatten(1)))


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 6, 5)], ids=["tokens", "as_many_tokens_as_features"])
def test_fold_batch_norm_behind_a_dense_layer_over_tokens(shape: tuple[int, ...]) -> None:
    """BatchNorm1d normalises dimension 1, which of a 3-D value is not the one that the dense layer makes.

    Where nothing tells the shape a fold may be tried, but then it must be refused at run time.
    """
    model = randomize(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(shape[1])))
    x = random(*shape)
    program = program_after(before(fold_batch_norm), model)
    program.values = {"_0": InputSpec.of(model[0](x))}
    assert fold_batch_norm(program) == 0
    assert_relevance(value(program, x), model(x).detach(), 1e-12)

    program = program_after(before(fold_batch_norm), model)
    if fold_batch_norm(program):
        with pytest.raises(fxlrp.errors.InputError, match="example_inputs"):
            value(program, x)
    else:
        assert_relevance(value(program, x), model(x).detach(), 1e-12)


def test_fold_batch_norm_behind_a_dense_layer_over_vectors() -> None:
    """Right where the graph itself or the example inputs say that there is no other dimension, and checked."""
    flattened = randomize(FlattenedFirst())
    program = program_after(before(fold_batch_norm), flattened)
    assert fold_batch_norm(program) == 1
    x = random(3, 2, 4)
    assert_relevance(value(program, x), flattened(x).detach(), 1e-12)

    model = randomize(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)))
    explain = fxlrp.compile(model, "epsilon", example_inputs=random(2, 5))
    explain(random(7, 5))
    with pytest.raises(fxlrp.errors.InputError, match="example_inputs"):
        explain(random(3, 6, 5), seed=torch.sign)


@pytest.mark.parametrize(
    ("name", "count", "left"),
    [("resnet18", 20, 0), ("densenet121", 59, 62), ("googlenet", 57, 0), ("mobilenet_v3_small", 34, 0)],
)
def test_fold_batch_norm_counts(name: str, count: int, left: int) -> None:
    """All of them, but in densenet121: there only the stem's and the second of each of 58 dense layers follow one."""
    model = zoo.build(name)
    norms = [path for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    norms = [path for path in norms if not path.startswith("aux")]  # googlenet's auxiliary heads are for training
    assert len(norms) == count + left
    if name == "densenet121":
        assert sum(path.endswith(("norm0", "norm2")) for path in norms) == count
    program = program_after(before(fold_batch_norm), model)
    assert batch_norms(program) == count + left
    assert fold_batch_norm(program) == count
    assert batch_norms(program) == left
    assert fold_batch_norm(program) == 0


# ----------------------------------------------------------------------------------------------------
# infer_dependence, find_first_layers


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
    assert infer_dependence(program) == len(program.dependent) == len(interpreter.found) == count
    assert {node.name for node in program.dependent} == interpreter.found


def test_infer_dependence_stops_at_sizes_masks_and_indices() -> None:
    def function(x: Tensor) -> Tensor:
        mask = x > 0
        index = x.argmax(1)
        scaled = torch.ones_like(x) * x.shape[0]
        gathered = WEIGHT.index_select(0, index)
        return torch.where(mask, gathered, scaled) + x

    program = program_after(before(infer_dependence), function)
    assert infer_dependence(program) == 3
    assert {node.target if node.op == "call_function" else node.op for node in program.dependent} == {
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


@pytest.mark.parametrize(("name", "count"), [("resnet18", 1), ("googlenet", 1), ("concatenation", 2)])
def test_find_first_layers_counts(name: str, count: int) -> None:
    model = zoo.small_net(name)[0] if name in zoo.SMALL_NETS else zoo.build(name)
    program = program_after(before(find_first_layers), model)
    assert find_first_layers(program) == len(program.first_layer) == count
    stems = {"resnet18": {"conv1"}, "googlenet": {"conv1_conv"}, "concatenation": {"wide", "narrow"}}
    assert {node.name for node in program.first_layer} == stems[name]


def test_find_first_layers_behind_googlenets_own_preprocessing() -> None:
    """With weights googlenet rescales its input channel by channel and joins the channels: neutral for relevance."""
    model = zoo.torchvision.models.googlenet(init_weights=False, aux_logits=False, transform_input=True)
    program = program_after(before(find_first_layers), model)
    assert find_first_layers(program) == 1
    assert {node.name for node in program.first_layer} == {"conv1_conv"}


# ----------------------------------------------------------------------------------------------------
# annotate, emit_relevance


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
    dependent = sum(node.op == "call_function" for node in program.dependent)
    assert annotate(program) == 110
    assert dependent - 110 == 16 * 5
    gates = [node for node in program.dependent if node.op == "call_function" and not annotation(node)]
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
    program = program_after(before(annotate), lambda x: torch.cumprod(x.digamma().lgamma(), 1) + torch.cummax(x, 1)[0])
    with pytest.raises(UnsupportedOpError) as caught:
        annotate(program)
    message = str(caught.value)
    assert message.startswith("4 operations")
    positions = [message.index(f"node {name!r}") for name in ("digamma", "lgamma", "cumprod", "cummax")]
    assert positions == sorted(positions)


def test_annotate_refuses_an_unmatched_pair() -> None:
    with pytest.raises(RuleError, match=r"user pair 1.*conv3d"):
        pairs = [("relu", rules.PassThrough()), ("conv3d", rules.ZPlus())]
        annotate(program_after(before(annotate), torch.relu, pairs))


@pytest.mark.parametrize(("name", "count"), [("resnet18", 49), ("googlenet", 139), ("densenet121", 372)])
def test_emit_relevance_counts(name: str, count: int) -> None:
    """A step for every annotated node: every call that is left after folding."""
    program = program_after(before(annotate), zoo.build(name))
    forward = sum(node in program.dependent for node in program.graph.nodes if node.op == "call_function")
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
    assert len(program.graph.output_node().args[0]) == 2


def test_emit_relevance_for_models_whose_inputs_have_these_names() -> None:
    class Named(nn.Module):
        def forward(self, target: Tensor, seed: Tensor) -> Tensor:
            return 2 * target + seed

    explain = fxlrp.compile(Named().eval(), presets.epsilon(0.0))
    target, seed = torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, 20.0]])
    first, second = explain(target, seed, target=1)
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
