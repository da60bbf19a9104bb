"""Law 1 of docs/architecture.md: the model is never changed."""

import copy
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxlrp
import zoo
from helpers import assert_is_gradient, lrp0
from law_models import PRESETS, assert_unchanged, image_batch, residual, snapshot
from oracles import assert_relevance


def untouched_model() -> nn.Module:
    """A model with marks of its own: frozen parameters, hooks, a gradient, an attribute."""
    model, _ = residual()
    assert isinstance(model, zoo.Residual)
    model.conv2.weight.requires_grad_(False)
    model.head.bias.grad = torch.ones_like(model.head.bias)
    model.register_forward_hook(lambda module, args, output: None)
    model.conv3.register_forward_pre_hook(lambda module, args: None)
    model.bn2.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    model.remark = "mine"  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("preset", ["epsilon", *PRESETS])
def test_model_is_unchanged(preset: Any) -> None:
    model = untouched_model()
    grad = model.get_parameter("head.bias").grad
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


@pytest.mark.slow
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


@pytest.mark.parametrize("capture", ["symbolic", "export"])
def test_the_code_of_a_graph_module_is_not_generated_again(capture: Any) -> None:
    """A model may be the result of torch.fx itself, or of create_feature_extractor."""
    model = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))).eval()
    x = torch.randn(2, 4)
    code, expected = type(model).forward, model(x)
    output = model.graph.output_node()
    with model.graph.inserting_before(output):
        output.args = (model.graph.call_function(torch.neg, (output.args[0],)),)
    explain = fxlrp.compile(model, "epsilon", example_inputs=x, capture=capture)
    explain(x, target=1)
    explain(x, target=fxlrp.targets.each([0, 1]))
    copy.deepcopy(explain)(x, target=1)
    explain.debug(x, target=1)
    assert type(model).forward is code
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
