"""Law 2 of docs/architecture.md: the product is an ordinary graph."""

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import zoo
from fxlrp import presets
from helpers import as_tuple, assert_is_gradient, lrp0, repeated
from law_models import (
    PRODUCTS,
    image_batch,
    load_state_dict,
    optimizer_step,
    product,
    replace_parameter,
    residual,
    write_through_data,
)
from oracles import assert_relevance


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


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", [PRODUCTS[0], *repeated(*PRODUCTS[1:])])
def test_torch_compile_without_graph_breaks(name: str) -> None:
    model, inputs = product(name, batch=3)
    eager = fxlrp.compile(model, rules="epsilon_plus_flat")
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    for batch in (3, 2):
        cut = tuple(x[:batch] for x in inputs)
        pairs = zip(as_tuple(compiled(*cut)), as_tuple(eager(*cut)), strict=True)
        for ours, expected in pairs:
            assert_relevance(ours, expected, 1e-10)


@pytest.mark.usefixtures("fresh_compiler")
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


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
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


@pytest.mark.slow
@pytest.mark.parametrize("name", [PRODUCTS[0], *repeated(*PRODUCTS[1:])])
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


def total_at(index: Tensor, y: Tensor) -> Tensor:
    return y.gather(1, index).sum()


@pytest.mark.slow
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
        (expected,) = zoo.gradient_times_input(model, part, select=functools.partial(total_at, index))
        assert_relevance(answer, expected, 1e-9)
