"""Law 3 of docs/architecture.md: any batch, any size."""

from typing import Any

import pytest
import torch

import fxlrp
import zoo
from helpers import assert_is_gradient, lrp0
from law_models import PRESETS, image_batch
from oracles import assert_relevance

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
