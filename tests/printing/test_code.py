"""The generated program as Python."""

import ast
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
import zoo
from fxlrp import presets, rules
from helpers import as_tuple, slow_ones, values_of
from oracles import One, assert_relevance, random, randomize


def run_code(explain: fxlrp.Explainer, *inputs: Tensor, **options: Any) -> Any:
    """Execute the printed program by its own imports alone, with the product in the place of self."""
    namespace: dict[str, Any] = {}
    exec(compile(explain.code, "printed", "exec"), namespace)
    with torch.no_grad():
        return namespace["forward"](explain.graph_module, *inputs, **options)


def assert_runs(explain: fxlrp.Explainer, *inputs: Tensor) -> None:
    expected, actual = explain(*inputs), run_code(explain, *inputs)
    for one, other in zip(
        as_tuple(expected),
        as_tuple(actual),
        strict=True,
    ):
        assert torch.equal(one, other)
        assert one.abs().max() > 0


@pytest.mark.parametrize("name", zoo.SMALL_NETS)
def test_code_runs(name: str) -> None:
    model, inputs = zoo.small_net(name)
    assert_runs(fxlrp.compile(model, "epsilon_plus_flat", example_inputs=inputs), *inputs)


@pytest.mark.parametrize(
    "name",
    ["resnet18", *slow_ones("googlenet"), "mobilenet_v3_small", *slow_ones("shufflenet_v2_x0_5", "convnext_tiny")],
)
def test_code_of_torchvision_models_runs(name: str) -> None:
    model, x = zoo.calibrated(name)
    assert_runs(fxlrp.compile(model, presets.epsilon_gamma_box((-3.0, -2.5, -2.0), (3.0, 2.5, 2.0))), x)


def scaled(input: Tensor, *, out: Tensor, relevance: Tensor) -> Tensor:
    return 0.5 * relevance


OTHER_PROGRAMS = {
    "infinity": lambda x: x.clamp(max=float("inf")) + x.masked_fill(x > 1, float("-inf")).clamp_min(-3.0),
    "nan": lambda x: torch.where(x > 1, float("nan"), x).masked_fill(x > 1, 0.5),
    "dtype": lambda x: x.to(torch.float32).to(dtype=torch.float64).double(),
    "device": lambda x: x.to(torch.device("cpu")) * 2,
    "device_of_another": lambda x: x + torch.zeros(3, 4, dtype=torch.float64).to(x.device),
    "slices": lambda x: x[..., 1:3] + x[:, None, ::2].squeeze(1) + x[torch.tensor([1, 0, 2])][:, [1, 3]],
    "methods": lambda x: x.view(-1, 2, 2).permute(0, 2, 1).expand(3, -1, -1).repeat(1, 2, 1).flip(0).flatten(1),
    "split": lambda x: torch.cat([x.split([1, 3], 1)[1], x.chunk(2, 1)[0]], 1),
    "unbind": lambda x: torch.stack([x.unbind(1)[2], x.unbind(1)[0]], 1),
    "activations": lambda x: F.gelu(F.softplus(F.leaky_relu(F.hardswish(F.mish(x))), beta=2), approximate="tanh"),
    "pad": lambda x: F.pad(F.pad(x, (1, 2), value=0.5)[None], (1, 1), mode="reflect")[0],
    "interpolate": lambda x: F.interpolate(x[None], scale_factor=2.0, mode="linear", align_corners=True)[0],
    "roll": lambda x: x.roll((1, 2), (0, 1)) + torch.movedim(x, 0, 1).movedim(1, 0) + x.swapaxes(0, 1).transpose(0, 1),
    "matmul": lambda x: x @ random(4, 4) + torch.bmm(x[None], x[None].transpose(1, 2))[0].sum(1, keepdim=True),
    "softmax": lambda x: torch.softmax(x, -1) * x,
    "gate": lambda x: torch.sigmoid(x) * F.glu(torch.cat([x, x], 1)),
    "magnitude": lambda x: x.add(torch.ones(4, dtype=torch.float64)) - 3 * x,
}


@pytest.mark.parametrize("name", OTHER_PROGRAMS)
def test_code_of_other_operations_runs(name: str) -> None:
    x = random(3, 4)
    explain = fxlrp.compile(One(OTHER_PROGRAMS[name]).eval())
    assert torch.isfinite(explain(x)).all()
    assert_runs(explain, x)


def test_code_with_every_rule_runs() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(7))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return x + (x - 2 * x) + F.max_pool1d(x[:, None], 3, 1, 1)[:, 0] * x

    chosen = [
        rules.ZBox((-1.0, -2.0, -3.0, -4.0), 4.0),
        rules.Flat(),
        rules.WSquare(bias=False),
        rules.Gamma(0.5, bias=False),
        rules.AlphaBeta(2, 1),
        rules.Epsilon(0.1, bias=False),
        rules.ZPlus(),
    ]
    pairs: list[Any] = [(f"layers.{index}", rule) for index, rule in enumerate(chosen)]
    pairs += [("sub", rules.Magnitude()), ("add", rules.Equal()), ("mul", rules.Uniform())]
    pairs += [("max_pool1d", rules.Epsilon(0.01)), ("tanh", rules.Custom(scaled))]
    assert_runs(fxlrp.compile(randomize(Net()), pairs), random(3, 4))


def test_code_with_target_and_seed_runs() -> None:
    model, (x,) = zoo.small_net("residual")
    explain = fxlrp.compile(model)
    for target in (2, torch.tensor([1, 4])):
        assert torch.equal(run_code(explain, x, target=target), explain(x, target=target))
    assert torch.equal(run_code(explain, x, seed=torch.relu), explain(x, seed=torch.relu))
    assert not torch.equal(run_code(explain, x, target=2), run_code(explain, x, target=3))


def test_code_gives_the_relevance_of_the_formula() -> None:
    """LRP-0 by the printed program is gradient x input, by autograd."""
    model, inputs = zoo.small_net("nested_skips")
    explain = fxlrp.compile(model, presets.epsilon(0.0))
    assert_relevance(run_code(explain, *inputs), zoo.gradient_times_input(model, *inputs)[0], 1e-9)


@pytest.mark.parametrize(
    "function", [lambda input, *, out, relevance: relevance, lambda x, *, out, relevance: 2 * relevance]
)
def test_code_with_a_rule_without_a_name_is_python(function: Any) -> None:
    explain = fxlrp.compile(One(torch.tanh).eval(), [("tanh", rules.Custom(function))])
    explain(random(2, 3))
    ast.parse(explain.code)


def test_code_where_names_collide_runs() -> None:
    """Modules that are called like torch, F, an import, a function of the program."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("torch", "F", "linear_epsilon", "initial_relevance", "operator", "fxlrp"):
                self.add_module(name, nn.Linear(4, 4))

        def forward(self, r_x: Tensor) -> Tensor:
            for name in ("torch", "F", "linear_epsilon", "initial_relevance", "operator", "fxlrp"):
                r_x = torch.tanh(getattr(self, name)(r_x))
            return F.relu(r_x).flatten(1)

    model = randomize(Net())
    x = random(2, 4)
    explain = fxlrp.compile(model, presets.epsilon(0.0))
    assert explain(x).shape == x.shape
    assert_runs(explain, x)


@pytest.mark.parametrize("name", zoo.SMALL_NETS)
def test_code_has_no_bookkeeping(name: str) -> None:
    """Neither what frees values nor mangled names; every line is an import or belongs to the one function."""
    code = fxlrp.compile(zoo.small_net(name)[0]).code
    assert not re.search(r"= None\s*$|;", code, re.MULTILINE)
    assert "fxlrp_relevance" not in code and "torch__C" not in code
    tree = ast.parse(code)
    assert all(isinstance(item, ast.Import | ast.ImportFrom | ast.FunctionDef) for item in tree.body)
    (function,) = (item for item in tree.body if isinstance(item, ast.FunctionDef))
    assert function.name == "forward"
    names = [argument.arg for argument in function.args.args]
    assert names[0] == "self" and names[-2:] == ["target", "seed"]
    # One step, one line: assignments and a return.
    assert all(isinstance(line, ast.Assign | ast.Return) for line in function.body)


def test_code_imports_what_it_uses_and_nothing_else() -> None:
    code = fxlrp.compile(zoo.small_net("residual")[0], "epsilon_plus_flat", optimize=False).code
    tree = ast.parse(code)
    imported = [
        alias.asname or alias.name for item in tree.body if isinstance(item, ast.ImportFrom) for alias in item.names
    ]
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert len(imported) == len(set(imported))
    assert set(imported) <= used
    assert {"linear_flat", "linear_zplus", "dense_transposed", "stabilize", "initial_relevance"} <= set(imported)


@pytest.mark.slow
@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "plain"])
@pytest.mark.parametrize("name", zoo.SMALL_NETS)
def test_names_of_relevance_follow_the_forward_nodes(name: str, optimize: bool) -> None:
    """``r_conv1`` is the relevance of ``conv1`` and shaped like it; ``r_relu_from_conv2`` is a part of relu's.

    ``q_conv1`` is the relevance as a quotient.
    """
    model, inputs = zoo.small_net(name)
    explain = fxlrp.compile(model, "epsilon_plus_flat", example_inputs=inputs, optimize=optimize)
    forward = {node.name for node in explain.nodes}
    values = values_of(explain, *inputs)
    made = [node for node in explain.graph_module.graph.nodes if node.name not in forward and node.op != "output"]
    relevances = [node.name for node in made if node.name.startswith(("r_", "q_"))]
    assert len(relevances) >= 3
    assert optimize or all(name.startswith("r_") for name in relevances)
    for relevance in relevances:
        whole, _, source = relevance[2:].removesuffix("_so_far").partition("_from_")
        assert whole in forward, f"{relevance} is named after no forward node"
        # A node that reads a value twice hands it two parts, and the second gets a number.
        assert not source or {source, re.sub(r"_\d+$", "", source)} & forward, f"{relevance} comes from no forward node"
        assert values[relevance].shape == values[whole].shape, relevance
    # Each input's relevance is what the program returns.
    returned = as_tuple(explain.graph_module.graph.output_node().args[0])
    placeholders = [node.name for node in explain.nodes if node.op == "placeholder"]
    assert [node.name for node in returned] == [f"r_{name}" for name in placeholders]


def test_names_of_relevance_that_adds_up() -> None:
    """A value that is read four times has four parts; the total, and nothing else, has its name alone."""
    explain = fxlrp.compile(One(lambda x: (x * 1 + x * 2) + (x * 3 + x * 4)).eval(), "epsilon", optimize=False)
    names = [node.name for node in explain.graph_module.graph.nodes if node.name.startswith("r_x")]
    assert {"r_x_from_mul", "r_x_from_mul_1", "r_x_from_mul_2", "r_x_from_mul_3"} <= set(names)
    assert [name for name in names if re.fullmatch(r"r_x(_\d+)?", name)] == ["r_x"]


def test_relevance_nodes_say_where_they_come_from() -> None:
    """Module path and source line of the forward node, on every step that was made for it."""
    explain = fxlrp.compile(zoo.small_net("residual")[0])
    forward = {node.name: node for node in explain.nodes}
    steps = [
        node for node in explain.graph_module.graph.nodes if node.op == "call_function" and node.name not in forward
    ]
    for convolution in ("conv1", "conv2", "conv3"):
        weight = f"{convolution}_folded_weight"
        made = [node for node in steps if weight in {source.name for source in node.all_input_nodes}]
        assert made
        for step in made:
            assert step.meta["nn_module_stack"] == forward[convolution].meta["nn_module_stack"]
            assert step.stack_trace == forward[convolution].stack_trace
            assert step.stack_trace and "zoo.py" in step.stack_trace
