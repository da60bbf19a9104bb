"""The laws of docs/architecture.md, each with a test, and every bad input with its error."""

import copy
import importlib
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
import zoo
from fxlrp import presets, rules
from fxlrp.errors import CaptureError, FxlrpError, InputError, InternalError, RuleError, UnsupportedOpError
from fxlrp.passes import pipeline
from fxlrp.passes.base import Pass
from fxlrp.program import Program
from oracles import assert_relevance

HERE = Path(__file__)
PRESETS = [
    pytest.param("epsilon_plus_flat", id="epsilon_plus_flat"),
    pytest.param("epsilon_alpha2_beta1", id="epsilon_alpha2_beta1"),
    pytest.param(presets.epsilon_gamma_box(-3.0, 3.0), id="epsilon_gamma_box"),
]


def lrp0(model: nn.Module, *example_inputs: Tensor) -> fxlrp.Explainer:
    return fxlrp.compile(model, example_inputs=example_inputs or None, rules=presets.epsilon(epsilon=0.0))


def residual(batch: int = 2) -> tuple[nn.Module, Tensor]:
    model, (x,) = zoo.small_net("residual", batch=batch)
    return model, x


def image_batch(batch: int, size: int) -> Tensor:
    return zoo.images(batch, size, seed=10 * batch + size)


def assert_is_gradient(relevance: Tensor, model: nn.Module, x: Tensor) -> None:
    """Relevance of LRP-0 against an oracle that knows nothing of fxlrp."""
    (expected,) = zoo.gradient_times_input(model, x)
    assert expected.abs().max() > 1e-4
    assert_relevance(relevance, expected, 1e-9)


def line_of(marker: str) -> int:
    """The line of this file that ends with the comment `# here: marker`."""
    lines = HERE.read_text().splitlines()
    (number,) = (i for i, line in enumerate(lines, 1) if line.endswith(f"# here: {marker}"))
    return number


def assert_names_line(message: str, marker: str) -> None:
    assert re.search(rf"{HERE.name}\D{{1,10}}{line_of(marker)}\b", message), message


# ----------------------------------------------------------------------------------------------------
# Law 1: the model is never changed


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All of a model that could change; tensors by identity, storage, version and value."""

    def of_tensor(tensor: Tensor) -> tuple[Any, ...]:
        value = tensor.detach().clone()
        return id(tensor), tensor.data_ptr(), tensor._version, tensor.requires_grad, tensor.grad, value

    state: dict[str, Any] = {"state_dict": {k: of_tensor(v) for k, v in model.state_dict(keep_vars=True).items()}}
    for path, module in model.named_modules():
        attributes = {k: v for k, v in vars(module).items() if not isinstance(v, dict)}
        hooks = {k: dict(v) for k, v in vars(module).items() if isinstance(v, dict) and "hook" in k}
        state[path] = id(module), type(module), attributes, hooks, dict(module._modules)
    return state


def assert_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    tensors, tensors_now = before.pop("state_dict"), after.pop("state_dict")
    assert tensors.keys() == tensors_now.keys()
    for name, (*facts, value) in tensors.items():
        *facts_now, value_now = tensors_now[name]
        assert facts == facts_now, name
        assert torch.equal(value, value_now), name
    assert before == after


def untouched_model() -> nn.Module:
    """A model with marks of its own: frozen parameters, hooks, a gradient, an attribute."""
    model, _ = residual()
    assert isinstance(model, zoo.Residual)
    model.conv2.weight.requires_grad_(False)
    model.head.bias.grad = torch.ones_like(model.head.bias)
    model.register_forward_hook(lambda module, args, output: None)
    model.conv3.register_forward_pre_hook(lambda module, args: None)
    model.bn2.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    model.remark = "mine"
    return model


@pytest.mark.parametrize("preset", ["epsilon", *PRESETS])
def test_model_is_unchanged(preset: Any) -> None:
    model = untouched_model()
    grad = model.head.bias.grad
    assert isinstance(grad, Tensor)
    before = snapshot(model)
    explain = fxlrp.compile(model, rules=preset)
    assert_unchanged(before, snapshot(model))
    before = snapshot(model)
    for batch in (1, 3, 2):
        explain(image_batch(batch, 8))
    str(explain), explain.code
    copy.deepcopy(explain)(image_batch(2, 8))
    assert_unchanged(before, snapshot(model))
    assert torch.equal(grad, torch.ones_like(grad))


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v3_small", "googlenet"])
def test_torchvision_model_is_unchanged(name: str) -> None:
    model, x = zoo.calibrated(name)
    before = snapshot(model)
    explain = fxlrp.compile(model)
    explain(x)
    assert_unchanged(before, snapshot(model))


def test_no_global_hook_is_left() -> None:
    model, x = residual()
    fxlrp.compile(model)(x)
    hooks = [v for k, v in vars(torch.nn.modules.module).items() if k.startswith("_global_") and "hook" in k]
    assert len(hooks) > 3
    assert not any(hooks)


def test_input_is_unchanged() -> None:
    """Also where the model works in place on it."""

    class Inplace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU(inplace=True)
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.relu(x))

    model = zoo.initialise(Inplace().double())
    x = torch.randn(2, 4, dtype=torch.float64)
    kept = x.clone()
    relevance = lrp0(model)(x)
    assert torch.equal(x, kept)
    (expected,) = zoo.gradient_times_input(lambda x: model(x.clone()), x)
    assert_relevance(relevance, expected, 1e-9)


def test_two_threads_get_what_one_gets() -> None:
    """From the first explanation on: whatever is prepared then is prepared by both at once."""
    inputs = [image_batch(batch, size) for batch in (1, 2, 3) for size in (8, 12)] * 2
    model, _ = residual()
    expected = [zoo.gradient_times_input(model, x)[0] for x in inputs]
    before = snapshot(model)
    for _ in range(5):
        explain = lrp0(model)
        barrier = threading.Barrier(2, timeout=60)

        def work(order: list[int], explain: fxlrp.Explainer = explain, barrier: Any = barrier) -> dict[int, Tensor]:
            barrier.wait()
            return {i: explain(inputs[i]) for i in order}

        with ThreadPoolExecutor(2) as pool:
            order = list(range(len(inputs)))
            results = list(pool.map(work, [order, order[::-1]]))
        for result in results:
            for i, relevance in result.items():
                assert_relevance(relevance, expected[i], 1e-9)
    assert_unchanged(before, snapshot(model))


@pytest.fixture
def modules_as_torch_has_them() -> Iterator[None]:
    """torch.fx patches nn.Module while it traces: a failing test must not leave that to the next ones."""
    kept = nn.Module.__call__, nn.Module.__getattr__
    yield
    nn.Module.__call__, nn.Module.__getattr__ = kept  # type: ignore[method-assign]


@pytest.mark.usefixtures("modules_as_torch_has_them")
def test_two_threads_compile_one_model() -> None:
    model, x = residual()
    before = snapshot(model)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: lrp0(model)(x), range(6)))
    for relevance in results:
        assert_is_gradient(relevance, model, x)
    assert_unchanged(before, snapshot(model))


@pytest.mark.usefixtures("modules_as_torch_has_them")
def test_one_thread_compiles_while_others_use_models() -> None:
    """Tracing patches nn.Module for all threads, and the model that is traced is in use by another."""
    model, x = residual()
    explain = lrp0(model)
    (expected,) = zoo.gradient_times_input(model, x)
    logits = model(x).detach()
    compiling = threading.Event()

    def compile_often() -> None:
        compiling.set()
        try:
            for _ in range(20):
                fxlrp.compile(model)
        finally:
            compiling.clear()

    def explain_meanwhile() -> int:
        compiling.wait(60)
        count = 0
        while compiling.is_set():
            assert_relevance(explain(x), expected, 1e-9)
            assert torch.equal(model(x), logits)
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        counting, done = pool.submit(explain_meanwhile), pool.submit(compile_often)
        done.result()
        assert counting.result() > 0


# ----------------------------------------------------------------------------------------------------
# Law 1: and the explainer is never stale


def other_state(model: nn.Module) -> dict[str, Tensor]:
    """A state_dict of the same keys and shapes with other values."""
    other = zoo.initialise(copy.deepcopy(model), seed=5)
    zoo.calibrate(other, image_batch(8, 8) * 2 + 0.3)
    return other.state_dict()


def optimizer_step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    F.cross_entropy(model(image_batch(4, 8)), torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    model.zero_grad()


def train_an_epoch(model: nn.Module) -> None:
    """BatchNorm's running statistics move too."""
    model.train()
    optimizer_step(model)
    model.eval()


def load_state_dict(model: nn.Module) -> None:
    model.load_state_dict(other_state(model))


def assign_state_dict(model: nn.Module) -> None:
    model.load_state_dict(other_state(model), assign=True)


def replace_parameter(model: nn.Module) -> None:
    model.get_submodule("conv2").weight = nn.Parameter(model.get_parameter("conv2.weight").detach() * -0.7)


def replace_linear_bias(model: nn.Module) -> None:
    """Feeds no ReLU, so LRP-0 sees it by the choice of the largest output only."""
    bias = model.get_parameter("head.bias").detach()
    model.get_submodule("head").bias = nn.Parameter(bias + 5 * torch.eye(5, dtype=bias.dtype)[3])


def running_statistics(model: nn.Module) -> None:
    model.get_buffer("bn2.running_var").mul_(3)
    model.get_buffer("bn3.running_mean").add_(0.5)


def replace_buffer(model: nn.Module) -> None:
    model.get_submodule("bn1").running_var = model.get_buffer("bn1.running_var") * 4


def write_through_data(model: nn.Module) -> None:
    """Does not move the parameter's version counter."""
    model.get_parameter("conv1.weight").data.mul_(-1)


def assign_data(model: nn.Module) -> None:
    weight = model.get_parameter("conv3.weight")
    weight.data = weight.data.flip(0)


def to_other_dtype_and_back(model: nn.Module) -> None:
    model.half().double()
    model.get_parameter("conv1.weight").data.neg_()


CHANGES = [
    optimizer_step,
    train_an_epoch,
    load_state_dict,
    assign_state_dict,
    replace_parameter,
    replace_linear_bias,
    running_statistics,
    replace_buffer,
    write_through_data,
    assign_data,
    to_other_dtype_and_back,
]


@pytest.mark.parametrize("asked_before", [True, False], ids=["asked_before", "first_asked_after"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_weights_change_the_answer(change: Callable[[nn.Module], None], asked_before: bool) -> None:
    model, x = residual()
    explain = lrp0(model)
    before = explain(x) if asked_before else zoo.gradient_times_input(model, x)[0]
    change(model)
    after = explain(x)
    assert (after - before).abs().max() > 1e-3 * before.abs().max()
    assert_is_gradient(after, model, x)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_weights_are_as_if_compiled_anew(change: Callable[[nn.Module], None], preset: Any) -> None:
    """Rules that prepare constants, such as W+, prepare them again. What they give is tested elsewhere."""
    model, x = residual()
    explain = fxlrp.compile(model, rules=preset)
    before = explain(x)
    change(model)
    after = explain(x)
    assert (after - before).abs().max() > 1e-3 * before.abs().max()
    assert_relevance(after, fxlrp.compile(model, rules=preset)(x), 1e-12)


@pytest.mark.parametrize("path", ["conv2", "bn2", "head"])
def test_replaced_module_is_used_or_refused(path: str) -> None:
    model, x = residual()
    explain = lrp0(model)
    explain(x)
    setattr(model, path, copy.deepcopy(model.get_submodule(path)))
    with torch.no_grad():
        model.get_parameter(f"{path}.weight").mul_(-1)
    try:
        relevance = explain(x)
    except FxlrpError as error:
        assert path in str(error)
    else:
        assert_is_gradient(relevance, model, x)


def test_model_in_training_mode_again_is_explained_as_in_eval_mode_or_refused() -> None:
    model, x = residual()
    explain = lrp0(model)
    model.train()
    try:
        relevance = explain(x)
    except FxlrpError as error:
        assert "train" in str(error)
    else:
        assert_is_gradient(relevance, model.eval(), x)


@pytest.mark.parametrize("place", ["", "conv2", "bn2", "relu"])
def test_hook_that_changes_an_output_is_obeyed_or_refused(place: str) -> None:
    model, x = residual()
    model.get_submodule(place).register_forward_hook(lambda module, args, output: output * 3 - 1)
    try:
        relevance = lrp0(model)(x)
    except FxlrpError as error:
        assert "hook" in str(error)
    else:
        assert_is_gradient(relevance, model, x)


# ----------------------------------------------------------------------------------------------------
# Law 2: the product is an ordinary graph

PRODUCTS = ["residual", "shapes", "augmented_add", "two_inputs", "output_per_pixel", "mobilenet_v3_small"]


def product(name: str, batch: int = 2) -> tuple[nn.Module, tuple[Tensor, ...]]:
    if name in zoo.SMALL_NETS:
        return zoo.small_net(name, batch=batch)
    model, x = zoo.calibrated(name, batch=batch)
    return model, (x,)


def as_tuple(relevance: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return relevance if isinstance(relevance, tuple) else (relevance,)


@pytest.mark.parametrize("name", PRODUCTS)
def test_product_is_a_plain_graph(name: str) -> None:
    model, _ = product(name)
    module = fxlrp.compile(model, rules="epsilon_plus_flat").graph_module
    assert isinstance(module, torch.fx.GraphModule)
    module.graph.lint()
    assert {node.op for node in module.graph.nodes} == {"placeholder", "get_attr", "call_function", "output"}
    for node in module.graph.nodes:
        if node.op == "call_function":
            assert callable(node.target)
            # Registered operators other than PyTorch's own would be missing where the product is deployed.
            if isinstance(node.target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
                assert str(node.target).split(".")[0] in {"aten", "prims"} or "aten" in repr(node.target)
            assert not isinstance(node.target, torch._ops.HigherOrderOperator), node.target
    # The product holds nothing of the user's model that could run hooks or forwards of its own.
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in module.modules())


def test_product_runs_by_itself() -> None:
    """graph_module answers as the explainer does, here held against autograd."""
    model, x = residual()
    explain = lrp0(model)
    assert_is_gradient(explain.graph_module(x), model, x)
    (expected,) = zoo.gradient_times_input(model, x, select=lambda y: y[:, 2].sum())
    assert_relevance(explain.graph_module(x, target=2), expected, 1e-9)


def test_no_operators_are_registered() -> None:
    model, x = residual()
    fxlrp.compile(model)(x)
    assert not [name for name in torch._C._dispatch_get_all_op_names() if "lrp" in name.lower()]


@pytest.mark.parametrize("name", PRODUCTS)
def test_autograd_has_no_part(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = product(name)
    explain = fxlrp.compile(model, rules=presets.epsilon_gamma_box(-3.0, 3.0))
    inputs = tuple(x.requires_grad_() for x in inputs)
    assert all(p.requires_grad for p in model.parameters())

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("autograd was asked for a gradient")

    for place, names in {
        torch.autograd: ("grad", "backward"),
        torch.autograd.graph: ("_engine_run_backward",),
        torch.Tensor: ("backward",),
        torch.func: ("vjp", "jvp", "grad", "linearize"),
    }.items():
        for attribute in names:
            monkeypatch.setattr(place, attribute, refuse)
    for relevance, x in zip(as_tuple(explain(*inputs)), inputs, strict=True):
        assert relevance.grad_fn is None and not relevance.requires_grad
        assert x.grad is None and x.requires_grad and x.is_leaf
    assert all(p.grad is None for p in model.parameters())


def test_inference_mode() -> None:
    model, x = residual()
    explain = lrp0(model)
    with torch.inference_mode():
        inside = explain(x)
        also_inside = explain(image_batch(3, 8))
    assert_is_gradient(inside.clone(), model, x)
    assert_is_gradient(also_inside.clone(), model, image_batch(3, 8))
    # What was prepared in inference mode still serves outside, also for inputs that want gradients.
    assert_is_gradient(explain(x.clone().requires_grad_()), model, x)
    optimizer_step(model)
    assert_is_gradient(explain(x), model, x)


def test_compiled_in_inference_mode() -> None:
    model, x = residual()
    with torch.inference_mode():
        explain = lrp0(model)
    assert_is_gradient(explain(x), model, x)


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("name", PRODUCTS)
def test_torch_compile_without_graph_breaks(name: str) -> None:
    model, inputs = product(name, batch=3)
    eager = fxlrp.compile(model, rules="epsilon_plus_flat")
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    for batch in (3, 2):
        cut = tuple(x[:batch] for x in inputs)
        pairs = zip(as_tuple(compiled(*cut)), as_tuple(eager(*cut)), strict=True)
        for ours, expected in pairs:
            assert_relevance(ours, expected, 1e-10)


@pytest.mark.usefixtures("fresh_dynamo")
def test_torch_compile_against_autograd_with_targets_and_seeds() -> None:
    model, x = residual(batch=3)
    compiled = torch.compile(lrp0(model), fullgraph=True, backend="aot_eager")
    targets = torch.tensor([1, 0, 4])
    choices: list[tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = [
        ({}, zoo.largest),
        ({"target": 2}, lambda y: y[:, 2].sum()),
        ({"target": targets}, lambda y: y.gather(1, targets[:, None]).sum()),
        ({"seed": torch.ones(3, 5, dtype=torch.float64)}, lambda y: y.abs().log().sum()),  # d/dy = 1 / y
    ]
    for arguments, select in choices:
        (expected,) = zoo.gradient_times_input(model, x, select=select)
        assert_relevance(compiled(x, **arguments), expected, 1e-9)


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("change", [optimizer_step, load_state_dict, replace_parameter, write_through_data])
def test_torch_compiled_explainer_is_not_stale(change: Callable[[nn.Module], None]) -> None:
    model, x = residual()
    compiled = torch.compile(lrp0(model), fullgraph=True, backend="aot_eager")
    assert_is_gradient(compiled(x), model, x)
    change(model)
    assert_is_gradient(compiled(x), model, x)


LOAD_WITHOUT_FXLRP = """
import sys

sys.modules["fxlrp"] = None  # whoever imports it now fails
import torch

try:
    import fxlrp
except ImportError:
    pass
else:
    raise SystemExit("fxlrp can be imported")

program, inputs, answers = sys.argv[1:]
module = torch.export.load(program).module()
torch.save([module(*args, **kwargs) for args, kwargs in torch.load(inputs)], answers)
assert not [name for name in sys.modules if name.partition(".")[0] == "fxlrp" and sys.modules[name] is not None]
"""


def run_exported(
    exported: torch.export.ExportedProgram,
    calls: list[tuple[tuple[Tensor, ...], dict[str, Any]]],
    folder: Path,
) -> list[Any]:
    """What a process without fxlrp gets from the saved program."""
    program, inputs, answers = (str(folder / name) for name in ("program.pt2", "inputs.pt", "answers.pt"))
    torch.export.save(exported, program)
    torch.save(calls, inputs)
    command = [sys.executable, "-I", "-c", LOAD_WITHOUT_FXLRP, program, inputs, answers]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return torch.load(answers)


def assert_only_aten(exported: torch.export.ExportedProgram) -> None:
    nodes = [
        node
        for module in exported.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if node.op == "call_function"
    ]
    assert len(nodes) > 10
    for node in nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            assert node.target.namespace == "aten", node.target
        elif isinstance(node.target, torch._ops.HigherOrderOperator):
            # torch.no_grad() as torch.export writes it; run_decompositions() takes it away.
            assert node.target.name() == "wrap_with_set_grad_enabled"
        else:  # arithmetic on sizes
            assert node.target.__module__ in {"_operator", "math", "torch"}, node


@pytest.mark.parametrize("name", PRODUCTS)
def test_export_loads_without_fxlrp(name: str, tmp_path: Path) -> None:
    model, inputs = product(name, batch=3)
    explain = fxlrp.compile(model, rules="epsilon_plus_flat")
    batch = torch.export.Dim("batch")
    exported = torch.export.export(explain, inputs, dynamic_shapes=(tuple({0: batch} for _ in inputs),))
    assert_only_aten(exported)
    calls: list[Any] = [(tuple(x[:size].clone() for x in inputs), {}) for size in (3, 2, 1)]
    for (args, _), answer in zip(calls, run_exported(exported, calls, tmp_path), strict=True):
        for got, expected in zip(as_tuple(answer), as_tuple(explain(*args)), strict=True):
            assert_relevance(got, expected, 1e-10)


def test_export_with_target_against_autograd(tmp_path: Path) -> None:
    model, x = residual(batch=5)
    targets = torch.tensor([0, 4, 2, 1, 3])
    batch = torch.export.Dim("batch")
    exported = torch.export.export(
        lrp0(model),
        (x,),
        kwargs={"target": targets},
        dynamic_shapes={"inputs": ({0: batch},), "target": {0: batch}},
    )
    calls: list[Any] = [((x[:n].clone(),), {"target": targets[:n].clone()}) for n in (5, 2)]
    for ((part,), kwargs), answer in zip(calls, run_exported(exported, calls, tmp_path), strict=True):
        index = kwargs["target"][:, None]
        (expected,) = zoo.gradient_times_input(model, part, select=lambda y, i=index: y.gather(1, i).sum())
        assert_relevance(answer, expected, 1e-9)


# ----------------------------------------------------------------------------------------------------
# Law 3: any batch, any size

IMAGE_NETS = [name for name, (_, shapes) in zoo.SMALL_NETS.items() if shapes == (zoo.IMAGE,)]


@pytest.mark.parametrize("name", IMAGE_NETS)
def test_one_explainer_for_all_batches_and_sizes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = zoo.small_net(name)
    explain = lrp0(model)
    module, code = explain.graph_module, explain.code

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("compiled again")

    monkeypatch.setattr(torch.fx.Tracer, "trace", refuse)
    monkeypatch.setattr(torch.export, "export", refuse)
    monkeypatch.setattr(torch.fx.GraphModule, "recompile", refuse)
    for size in (8, 12):
        for batch in (1, 2, 7):
            x = image_batch(batch, size)
            assert_is_gradient(explain(x), model, x)
    assert explain.graph_module is module and explain.code == code


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["residual", "pooling", "shapes", "broadcast"])
def test_samples_of_a_batch_are_explained_as_alone(name: str, preset: Any) -> None:
    model, _ = zoo.small_net(name)
    explain = fxlrp.compile(model, rules=preset)
    for size in (8, 12):
        x = image_batch(7, size)
        alone = torch.cat([explain(sample[None]) for sample in x])
        assert_relevance(explain(x), alone, 1e-10)
        assert_relevance(explain(x[:2]), alone[:2], 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_and_dtype_of_the_input_come_back(dtype: torch.dtype) -> None:
    model, (x,) = zoo.small_net("residual", dtype=dtype)
    relevance = fxlrp.compile(model)(x)
    assert relevance.shape == x.shape and relevance.dtype == dtype and relevance.device == x.device
    assert relevance.isfinite().all()


# ----------------------------------------------------------------------------------------------------
# Law 4: nothing silent


def carried(node: torch.fx.Node) -> list[torch.fx.Node]:
    """The nodes that `node` hands relevance to, by its annotation: positions among its flattened arguments."""
    arguments = torch.utils._pytree.tree_leaves((node.args, node.kwargs))
    return [arguments[position] for position in node.meta["fxlrp"].carries]


class Record(torch.fx.Interpreter):
    """Runs a graph and keeps the value of every node."""

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        self.values = getattr(self, "values", {}) | {n: value}
        return value


@pytest.mark.parametrize("name", [*PRODUCTS, "googlenet", "shufflenet_v2_x0_5", "efficientnet_b0"])
def test_every_node_that_relevance_flows_through_is_annotated(name: str) -> None:
    model, inputs = product(name)
    explain = fxlrp.compile(model, rules="epsilon_plus_flat")
    nodes = explain.nodes
    recorder = Record(explain.graph_module)
    with torch.no_grad():
        logits = model(*inputs)
        recorder.run(*inputs, None, None)
    output = [node for node in nodes if node.op == "call_function"][-1]
    values = {node.name: value for node, value in recorder.values.items()}
    torch.testing.assert_close(values[output.name], logits)

    placeholders = [node for node in nodes if node.op == "placeholder"]
    assert len(placeholders) == len(inputs)
    reached: set[torch.fx.Node] = set()
    pending = [output]
    while pending:
        node = pending.pop()
        if node in reached:
            continue
        reached.add(node)
        if node in placeholders:
            continue
        assert node in nodes, node
        annotation = node.meta["fxlrp"]
        assert annotation.rule is not None and annotation.origin and annotation.reason, node
        assert annotation.carries, f"{node}: relevance ends here"
        pending += carried(node)
    assert reached.issuperset(placeholders)
    # Where relevance does not flow there is none to hand on, and nothing has two annotations' worth of it.
    for node in nodes:
        assert ("fxlrp" in node.meta) == (node in reached and node not in placeholders), node


class Curl(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.cumprod(x, dim=1)  # here: cumprod
        return x + torch.linalg.matrix_exp(x)  # here: matrix_exp


class Unsupported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 1), Curl())

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        x = torch.logcumsumexp(x, dim=2)  # here: logcumsumexp
        return x.mean((2, 3))


def test_unsupported_operations_are_listed_all_at_once() -> None:
    with pytest.raises(UnsupportedOpError) as caught:
        fxlrp.compile(Unsupported().eval())
    message = str(caught.value)
    for name in ("cumprod", "matrix_exp", "logcumsumexp"):
        assert name in message
        assert_names_line(message, name)
    assert "block.1" in message  # the module path
    assert "extensions" in message  # how to add a rule


def test_unsupported_operations_off_the_way_of_relevance_do_not_matter() -> None:
    class Off(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.unused = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            unused = torch.cumprod(self.unused(x), 1)
            unused = torch.logcumsumexp(unused, 1)
            gate = torch.sigmoid(torch.cumprod(x, 1).detach())
            return self.linear(x) * gate

    model = zoo.initialise(Off().double())
    x = torch.randn(2, 4, dtype=torch.float64)
    assert_is_gradient(lrp0(model)(x), model, x)


def test_writes_through_a_view_are_followed_or_refused() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear1 = nn.Linear(4, 6)
            self.linear2 = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.linear1(x)
            y = x.view(-1, 2, 3)
            y[:, 0].relu_()
            y *= 2
            return self.linear2(x)

    model = zoo.initialise(Views().double())
    x = torch.randn(2, 4, dtype=torch.float64)
    try:
        relevance = fxlrp.compile(model, presets.epsilon(epsilon=0.0), capture="symbolic")(x)
    except (CaptureError, UnsupportedOpError) as error:
        assert HERE.name in str(error)
    else:
        assert_is_gradient(relevance, model, x)


def test_item_assignment_is_followed_or_refused() -> None:
    class Assigns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = 2 * x
            x[:, 1] = 0
            return self.linear(x)

    model = zoo.initialise(Assigns().double())
    x = torch.randn(2, 4, dtype=torch.float64)
    try:
        relevance = fxlrp.compile(model, presets.epsilon(epsilon=0.0), capture="symbolic")(x)
    except (CaptureError, UnsupportedOpError) as error:
        assert HERE.name in str(error)
    else:
        assert_is_gradient(relevance, model, x)


# ----------------------------------------------------------------------------------------------------
# Law 5: keyed by node and argument position


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + x).flatten(1)


def test_both_contributions_of_x_plus_x_count() -> None:
    x = torch.tensor([[[1.0, -2.0], [3.0, 0.5]]], dtype=torch.float64)
    relevance = lrp0(Doubled().eval())(x, target=2)
    assert torch.equal(relevance, torch.tensor([[[0.0, 0.0], [6.0, 0.0]]], dtype=torch.float64))


def test_one_sided_rule_tells_the_two_arguments_of_x_plus_x_apart() -> None:
    """Only(0) gives all to the first argument, which is x, Only(1) to the second, which is x too."""
    x = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    for operand in (0, 1):
        explain = fxlrp.compile(Doubled().eval(), rules=[("add", rules.Only(operand))])
        assert torch.equal(explain(x, target=1), torch.tensor([[0.0, -4.0, 0.0]], dtype=torch.float64))


def test_module_called_twice_is_two_nodes() -> None:
    model, _ = zoo.small_net("module_twice")
    nodes = [n for n in lrp0(model).nodes if "conv" in str(n.target) or "conv" in n.name]
    assert len({node.name for node in nodes}) == len(nodes) == 3


def test_rules_may_differ_between_two_calls_of_one_module() -> None:
    """A predicate chooses one call of the shared convolution, and the other keeps its rule."""
    model, (x,) = zoo.small_net("module_twice")
    calls = [n.name for n in lrp0(model).nodes if "conv" in str(n.target) or "conv" in n.name]
    answers = [
        fxlrp.compile(model, rules=[(lambda node, call=call: node.name == call, rules.Flat())])(x) for call in calls
    ]
    assert len(answers) == 3
    for i in range(3):
        for j in range(i):
            assert (answers[i] - answers[j]).abs().max() > 1e-3 * answers[i].abs().max()


def nodes_inside(value: Any, depth: int = 0) -> bool:
    if isinstance(value, torch.fx.Node):
        return True
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(nodes_inside(item, depth + 1) for item in value)
    if isinstance(value, dict):
        return nodes_inside([*value.keys(), *value.values()], depth + 1)
    return depth < 5 and hasattr(value, "__dict__") and nodes_inside(vars(value), depth + 1)


def test_annotations_hold_no_node() -> None:
    model, _ = residual()
    annotations = [node.meta["fxlrp"] for node in fxlrp.compile(model).nodes if "fxlrp" in node.meta]
    assert len(annotations) > 8
    assert not nodes_inside([vars(annotation) for annotation in annotations])


def test_deep_copy_of_the_explainer_works() -> None:
    model, x = residual()
    explain = lrp0(model)
    before = snapshot(model)
    twin = copy.deepcopy(explain)
    assert_unchanged(before, snapshot(model))
    assert str(twin) == str(explain) and twin.code == explain.code
    assert_is_gradient(twin(x), model, x)
    # Its annotations are its own and point into its own graph.
    assert {n.name for n in twin.nodes} == {n.name for n in explain.nodes}
    assert not set(twin.nodes) & set(explain.nodes)
    # Training the original is no business of the copy's, and the original notices as ever.
    kept = zoo.gradient_times_input(model, x)[0]
    optimizer_step(model)
    assert_is_gradient(explain(x), model, x)
    assert_relevance(twin(x), kept, 1e-9)


# ----------------------------------------------------------------------------------------------------
# Law 6: a pass is a file

STAGES = (
    *(pipeline.CANONICALIZE, pipeline.SIMPLIFY, pipeline.ANALYZE, pipeline.ANNOTATE),
    *(pipeline.SPECIALIZE, pipeline.EMIT, pipeline.CHECKPOINT, pipeline.OPTIMIZE),
)
INTO_A_BACKWARD = (*STAGES[:5], pipeline.EMIT_BACKWARD, pipeline.OPTIMIZE_BACKWARD)
NO_PASSES = {"__init__", "base", "pipeline"}


def test_every_file_of_passes_is_one_pass_in_the_order() -> None:
    files = {path.stem for path in Path(fxlrp.passes.__path__[0]).glob("*.py")} - NO_PASSES
    names = {step.name for stages in (STAGES, INTO_A_BACKWARD) for stage in stages for step in stage}
    assert files >= names
    for file in files:
        module = importlib.import_module(f"fxlrp.passes.{file}")
        own = [v for v in vars(module).values() if isinstance(v, Pass) and v.run.__module__ == module.__name__]
        assert own, file
        assert {step.name for step in own} <= names, file


@pytest.mark.parametrize("stages", [STAGES, INTO_A_BACKWARD], ids=["explainer", "backward"])
def test_what_a_pass_needs_is_provided_before_it(stages: tuple[tuple[Pass, ...], ...]) -> None:
    provided: set[str] = set()
    for step in (step for stage in stages for step in stage):
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

    for name in ("CANONICALIZE", "SIMPLIFY", "ANALYZE", "ANNOTATE", "SPECIALIZE", "EMIT", "OPTIMIZE"):
        monkeypatch.setattr(pipeline, name, tuple(counting(step) for step in getattr(pipeline, name)))
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
    monkeypatch.setattr(pipeline, "CANONICALIZE", pipeline.CANONICALIZE[1:])
    with pytest.raises(InternalError, match="functional"):
        fxlrp.compile(residual()[0])


def test_the_graph_is_checked_after_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def use_before_definition(program: Program) -> int:
        nodes = [node for node in program.graph.nodes if node.op == "call_function"]
        nodes[0].append(nodes[-1])
        return 1

    def refuse(program: Program) -> int:
        raise AssertionError("the next pass was run")

    broken = Pass("breaks_the_graph", use_before_definition, frozenset(), frozenset())
    after = Pass("comes_after", refuse, frozenset(), frozenset())
    monkeypatch.setattr(pipeline, "SIMPLIFY", (broken, after))
    with pytest.raises(InternalError, match="breaks_the_graph"):
        fxlrp.compile(residual()[0])


# ----------------------------------------------------------------------------------------------------
# Law 7: an optimisation never changes an answer


@pytest.mark.parametrize(
    "name",
    ["residual", "one_dimensional", "three_dimensional", *(n for n in zoo.SMALL_NETS if "batch_norm" in n)],
)
def test_folding_batch_norm_does_not_change_lrp0(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other rules see the folded layer, on purpose: there folding is part of what they mean."""
    model, (x,) = zoo.small_net(name)
    folded = lrp0(model, x)
    monkeypatch.setattr(pipeline, "SIMPLIFY", tuple(s for s in pipeline.SIMPLIFY if s.name != "fold_batch_norm"))
    unfolded = lrp0(model)
    assert str(unfolded).count("batch_norm") > str(folded).count("batch_norm") or "shared" in name
    assert_is_gradient(unfolded(x), model, x)
    assert_relevance(folded(x), unfolded(x), 1e-9)


# ----------------------------------------------------------------------------------------------------
# Bad input: a clear error of fxlrp's own


def test_training_mode() -> None:
    model, _ = residual()
    with pytest.raises(CaptureError, match=r"eval\(\)"):
        fxlrp.compile(model.train())


def test_one_module_in_training_mode() -> None:
    model, _ = residual()
    model.get_submodule("bn2").train()
    with pytest.raises(CaptureError, match="bn2"):
        fxlrp.compile(model)


def test_control_flow_on_values() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.linear(x)
            if x.sum() > 0:  # here: control flow
                x = -x
            return x

    explain = fxlrp.compile(Branches().eval())  # the other front end may follow it, at the first call
    with pytest.raises(CaptureError) as caught:
        explain(torch.rand(2, 4))
    assert_names_line(str(caught.value), "control flow")
    assert "torch.export cannot follow" in str(caught.value)


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (5, "5"),
        (-6, "-6"),
        (torch.tensor([0, 5]), "out of range"),
        (torch.tensor([-6, 0]), "out of range"),
        (torch.tensor([0, 1, 2]), "3"),
        (torch.tensor([[0, 1]]), "1, 2"),
        (torch.tensor([0.0, 1.0]), "float32"),
        (torch.tensor([True, False]), "bool"),
        ((0, 1), "target"),
        (1.5, "1.5"),
        ("cat", "cat"),
    ],
    ids=repr,
)
def test_target(target: Any, named: str) -> None:
    model, x = residual()
    explain = fxlrp.compile(model)
    with pytest.raises(InputError, match="target") as caught:
        explain(x, target=target)
    assert named in str(caught.value)


@pytest.mark.parametrize("target", [(4, 0, 0), (0, 0, 8), (0, 0), 3], ids=repr)
def test_target_of_an_output_with_several_dimensions(target: Any) -> None:
    model, (x,) = zoo.small_net("output_per_pixel")
    with pytest.raises(InputError, match="target"):
        fxlrp.compile(model)(x, target=target)


@pytest.mark.parametrize(
    "seed",
    [
        torch.ones(2, 4, dtype=torch.float64),
        torch.ones(5, dtype=torch.float64),
        torch.ones(1, 5, dtype=torch.float64),
        lambda output: output[:, :3],
        lambda output: output.sum(1, keepdim=True),
        "largest",
    ],
    ids=["2x4", "5", "1x5", "function_2x3", "function_2x1", "str"],
)
def test_seed(seed: Any) -> None:
    model, x = residual()
    explain = fxlrp.compile(model)
    with pytest.raises(InputError, match="seed"):
        explain(x, seed=seed)


def test_seed_and_target_together() -> None:
    model, x = residual()
    explain = fxlrp.compile(model)
    with pytest.raises(InputError, match=r"seed.*target|target.*seed"):
        explain(x, seed=torch.ones(2, 5, dtype=torch.float64), target=1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex128], ids=str)
def test_input_that_is_not_floating_point(dtype: torch.dtype) -> None:
    model, x = residual()
    explain = fxlrp.compile(model)
    with pytest.raises(InputError, match=str(dtype).removeprefix("torch.")):
        explain((x * 10).to(dtype))


def test_input_on_another_device() -> None:
    model, x = residual()
    explain = fxlrp.compile(model)
    with pytest.raises(InputError, match="meta") as caught:
        explain(x.to("meta"))
    assert "cpu" in str(caught.value)


def test_input_that_is_no_tensor() -> None:
    model, x = residual()
    explain = fxlrp.compile(model)
    with pytest.raises(InputError, match="list"):
        explain(x.tolist())


@pytest.mark.parametrize("count", [0, 2])
def test_wrong_number_of_inputs(count: int) -> None:
    model, x = residual()
    explain = fxlrp.compile(model)
    with pytest.raises(InputError, match="input"):
        explain(*[x] * count)


def test_output_that_is_no_tensor() -> None:
    class Dictionary(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": x.flatten(1)}

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.flatten(1), x

    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> None:
            return None

    for module, named in ((Dictionary(), "dict"), (Pair(), "tuple"), (Nothing(), "None")):
        with pytest.raises(CaptureError, match=named):
            fxlrp.compile(module.eval())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["conv2.weight", "head.bias", "bn3.running_var"])
def test_parameter_that_is_not_finite(name: str, value: float) -> None:
    model, x = residual()
    model.state_dict()[name].view(-1)[1] = value
    with pytest.raises((InputError, CaptureError), match=re.escape(name)):
        fxlrp.compile(model)(x)


def test_unknown_preset() -> None:
    model, _ = residual()
    with pytest.raises(RuleError, match="epsilon_pluss") as caught:
        fxlrp.compile(model, rules="epsilon_pluss")
    assert "epsilon_plus_flat" in str(caught.value)  # and which there are


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: rules.Epsilon(eps=1e-3), "eps"),
        (lambda: rules.Gamma(gama=0.1), "gama"),
        (lambda: rules.ZBox(lo=0.0, high=1.0), "lo"),
        (lambda: presets.epsilon_plus(epsilom=1e-3), "epsilom"),
        (lambda: rules.AlphaBeta(alpha=2.0, beta=0.5), "alpha"),
        (lambda: rules.AlphaBeta(alpha=0.0, beta=-1.0), "beta"),
        (lambda: rules.Epsilon(epsilon=-1.0), "epsilon"),
        (lambda: rules.Gamma(gamma=-0.5), "gamma"),
        (lambda: rules.ZBox(low=1.0, high=-1.0), "low"),
        (lambda: rules.Only(operand=-1), "operand"),
    ],
    ids=[
        "Epsilon_eps",
        "Gamma_gama",
        "ZBox_lo",
        "epsilon_plus_epsilom",
        "AlphaBeta_2_0.5",
        "AlphaBeta_0_-1",
        "negative_epsilon",
        "negative_gamma",
        "empty_box",
        "negative_operand",
    ],
)
def test_rule_parameter(make: Callable[[], Any], named: str) -> None:
    with pytest.raises(RuleError, match=named):
        make()


@pytest.mark.parametrize(
    ("selector", "named"),
    [("layer9.*", r"layer9\.\*"), (nn.Conv3d, "Conv3d"), ("conv3d", "conv3d"), ("cnov2d", "cnov2d")],
    ids=["glob", "class", "operation", "misspelt"],
)
def test_pair_that_matches_nothing(selector: Any, named: str) -> None:
    model, _ = residual()
    with pytest.raises(RuleError, match=named):
        fxlrp.compile(model, rules=[("conv2d", rules.Gamma(0.1)), (selector, rules.Epsilon())])


def test_predicate_that_matches_nothing() -> None:
    model, _ = residual()

    def has_no_such_name(node: torch.fx.Node) -> bool:
        return node.name == "no such name"

    with pytest.raises(RuleError, match="has_no_such_name"):
        fxlrp.compile(model, rules=[(has_no_such_name, rules.Epsilon())])


def test_rule_that_does_not_fit_the_operation() -> None:
    model, _ = residual()
    with pytest.raises(RuleError, match=r"SignalTakeAll.*conv|conv.*SignalTakeAll"):
        fxlrp.compile(model, rules=[("conv1", rules.SignalTakeAll())])


@pytest.mark.parametrize("bad", [42, [("conv2d",)], [(3.5, rules.Epsilon())], [("conv2d", "epsilon")]], ids=repr)
def test_rules_of_a_wrong_type(bad: Any) -> None:
    model, _ = residual()
    with pytest.raises(RuleError):
        fxlrp.compile(model, rules=bad)


def test_dropout_that_is_always_on() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.linear(x), 0.5, training=True)  # here: dropout

    with pytest.raises((CaptureError, UnsupportedOpError), match="dropout") as caught:
        fxlrp.compile(Noisy().eval())
    assert_names_line(str(caught.value), "dropout")


def test_batch_statistics_in_eval_mode() -> None:
    """Without running statistics BatchNorm mixes the samples of a batch: none is explained alone."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()).eval()
    with pytest.raises((CaptureError, UnsupportedOpError), match="statistics"):
        fxlrp.compile(model)


def test_model_that_is_no_module() -> None:
    with pytest.raises(FxlrpError):
        fxlrp.compile(lambda x: x)


def test_errors_are_fxlrps_own() -> None:
    for error in (CaptureError, UnsupportedOpError, RuleError, InputError):
        assert issubclass(error, FxlrpError)


def test_switching_the_explainer_does_not_switch_the_model() -> None:
    model, x = residual()
    explain = fxlrp.compile(model)
    before = explain(x)
    nn.Sequential(explain).train()
    assert not any(module.training for module in model.modules())
    torch.testing.assert_close(explain(x), before, rtol=0, atol=0)
    model.train()
    explain.eval()
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(explain(x), before, rtol=0, atol=0)
