"""The same graph on a CUDA device."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import fxlrp
import zoo
from fxlrp.attention import attention, attention_transposed
from fxlrp.errors import InputError
from helpers import as_tuple
from oracles import assert_relevance, random

pytestmark = pytest.mark.cuda

PRESETS = {
    "epsilon": fxlrp.presets.epsilon(),
    "epsilon_plus_flat": fxlrp.presets.epsilon_plus_flat(),
    "epsilon_gamma_box": fxlrp.presets.epsilon_gamma_box(low=-3.0, high=3.0),
    "epsilon_alpha2_beta1": fxlrp.presets.epsilon_alpha2_beta1(),
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", sorted(zoo.SMALL_NETS))
def test_same_relevance_as_on_the_cpu(name: str, preset: str) -> None:
    model, inputs = zoo.small_net(name)
    on_cpu = fxlrp.compile(model, rules=PRESETS[preset], example_inputs=inputs)(*inputs)
    device_inputs = tuple(x.cuda() for x in inputs)
    on_device = fxlrp.compile(copy.deepcopy(model).cuda(), rules=PRESETS[preset], example_inputs=inputs)(*device_inputs)
    for device_relevance, cpu_relevance in zip(as_tuple(on_device), as_tuple(on_cpu), strict=True):
        assert device_relevance.device.type == "cuda"
        assert_relevance(device_relevance.cpu(), cpu_relevance, 1e-9)


@pytest.mark.parametrize("mask", [None, "numbers", "truth values"])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_attention(dtype: torch.dtype, is_causal: bool, mask: str | None) -> None:
    """The kernels of the device, and blocks of queries where none fits, agree with double precision on the CPU."""
    q, keys, v = random(2, 3, 16, 32, seed=1), random(2, 3, 32, 16, seed=2), random(2, 3, 16, 32, seed=3)
    given = {None: None, "numbers": random(16, 16, seed=4), "truth values": random(2, 1, 16, 16, seed=4) > 0}[mask]
    told: dict[str, Any] = {"mask": given, "scale": 0.2, "is_causal": is_causal}
    out, kept = attention(q, keys, v, **told)
    expected = (out, *attention_transposed(out, q, keys, v, out, kept, **told))
    q, keys, v, u = (each.to("cuda", dtype) for each in (q, keys, v, out))
    if given is not None:
        told["mask"] = given.to("cuda", dtype) if given.is_floating_point() else given.cuda()
    found, kept = attention(q, keys, v, **told)
    results = (found, *attention_transposed(u, q, keys, v, found, kept, **told))
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4}.get(dtype, 0.05)
    for one, other in zip(results, expected, strict=True):
        torch.testing.assert_close(one.cpu().double(), other, rtol=tolerance, atol=tolerance)


def test_an_explainer_moves_with_its_model() -> None:
    model, (x,) = zoo.small_net("residual")
    explain = fxlrp.compile(model)
    expected = explain(x)
    explain.cuda()
    assert_relevance(explain(x.cuda()).cpu(), expected, 1e-9)
    with pytest.raises(InputError, match="cpu"):
        explain(x)
    assert_relevance(explain.cpu()(x), expected, 1e-9)


def residual() -> tuple[fxlrp.Explainer, torch.Tensor, torch.Tensor]:
    """An explainer and an image on the device, and what is expected there."""
    model, (x,) = zoo.small_net("residual")
    expected = fxlrp.compile(model, "epsilon_plus")(x, target=1)
    return fxlrp.compile(model.cuda(), "epsilon_plus"), x.cuda(), expected


def test_a_cuda_graph() -> None:
    explain, x, expected = residual()
    explain(x, target=1)  # allocates workspaces, which capture may not
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = explain(x, target=1)
    x.copy_(x.flip(0))
    graph.replay()
    assert_relevance(captured.cpu(), expected.flip(0), 1e-9)


def test_autocast_and_half_precision() -> None:
    explain, x, expected = residual()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = explain(x, target=1)
    halved = fxlrp.compile(copy.deepcopy(explain.graph_module.get_submodule("model")).bfloat16(), "epsilon_plus")
    for each in (found, halved(x.bfloat16(), target=1)):
        assert each.isfinite().all()
        assert torch.corrcoef(torch.stack([each.double().flatten().cpu(), expected.flatten()]))[0, 1] > 0.95


def test_deterministic_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    explain, x, _ = residual()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(explain(x, target=1), explain(x, target=1))
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_backward() -> None:
    explain, x, expected = residual()
    model = explain.graph_module.get_submodule("model")
    for explained in (
        fxlrp.autograd(model, "epsilon_plus"),
        torch.compile(model, backend=fxlrp.backend("epsilon_plus")),
    ):
        leaf = x.clone().requires_grad_()
        explained(leaf)[:, 1].sum().backward()
        assert leaf.grad is not None
        assert_relevance(leaf.grad.cpu(), expected, 1e-9)


def test_inductor() -> None:
    explain, x, expected = residual()
    assert_relevance(torch.compile(explain, fullgraph=True)(x, target=1).cpu(), expected, 1e-9)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device or none")
def test_several_devices() -> None:
    explain, x, expected = residual()
    for index in range(torch.cuda.device_count()):
        made = copy.deepcopy(explain).to(f"cuda:{index}")
        assert_relevance(made(x.to(f"cuda:{index}"), target=1).cpu(), expected, 1e-9)
