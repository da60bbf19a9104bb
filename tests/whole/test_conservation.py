"""Relevance is neither lost nor made: every torchvision classifier that symbolic tracing follows.

Without biases and BatchNorm means, and with a tiny epsilon, the relevance at the input sums to the explained
output. That is necessary, not sufficient, so the relevance itself is held against autograd too: gradient x
input of the same model with all that the rules take for a constant detached.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import fxlrp
import zoo
from oracles import assert_relevance

EPSILON = 1e-12
TOLERANCE = 1e-6

ATTENTION = "attention, which symbolic tracing leaves closed: needs the torch.export front end"
LEFT_OUT = dict.fromkeys(
    (
        "maxvit_t",
        *("swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b"),
        *("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"),
    ),
    ATTENTION,
)
QUICK = {
    *("alexnet", "convnext_tiny", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5", "mobilenet_v3_small"),
    *("regnet_x_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_0", "squeezenet1_1"),
}

# One of each of the other families. What is in neither repeats the blocks of one that is.
FAMILIES = {
    *("densenet121", "mobilenet_v2", "mobilenet_v3_large", "regnet_y_400mf"),
    *("resnet50", "resnext50_32x4d", "shufflenet_v2_x1_0", "vgg11", "vgg11_bn", "wide_resnet50_2"),
}

TESTED = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow if name in FAMILIES else pytest.mark.repeats)
    for name in (
        "alexnet",
        *("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
        *("densenet121", "densenet161", "densenet169", "densenet201"),
        *(f"efficientnet_b{size}" for size in range(8)),
        *("efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l"),
        *("googlenet", "inception_v3"),
        *("mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"),
        *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
        *(f"regnet_x_{size}" for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")),
        *(f"regnet_y_{size}" for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf", "128gf")),
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
        *(f"shufflenet_v2_x{size}" for size in ("0_5", "1_0", "1_5", "2_0")),
        *("squeezenet1_0", "squeezenet1_1"),
        *(f"vgg{depth}{suffix}" for depth in (11, 13, 16, 19) for suffix in ("", "_bn")),
        *("wide_resnet50_2", "wide_resnet101_2"),
    )
]


def test_every_registered_classifier_is_tested_or_left_out_with_a_reason() -> None:
    tested = [str(param.values[0]) for param in TESTED]
    assert len(tested) == len(set(tested))
    assert sorted([*tested, *LEFT_OUT]) == sorted(zoo.classifiers())
    assert all(LEFT_OUT.values())


class Linearized(TorchFunctionMode):
    """Runs a model as the linear map that LRP-0 sees.

    An activation y of x becomes x * (y / x), a sigmoid is a gate and constant, a normalization's 1/sigma too.
    """

    ACTIVATIONS = (F.silu, F.gelu, F.hardswish, F.hardtanh, F.relu6)
    GATES = (torch.sigmoid, F.hardsigmoid)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.ACTIVATIONS:
            x = args[0]
            value = func(x.detach().clone(), *args[1:], **kwargs)  # a copy: the call may be in-place
            return x * torch.where(x == 0, 0, value / x).detach()
        if func in self.GATES:
            return func(args[0].detach().clone(), *args[1:], **kwargs)
        if func is F.layer_norm:
            return self.layer_norm(*args, **kwargs)
        return func(*args, **kwargs)

    @staticmethod
    def layer_norm(x: Tensor, shape: tuple[int, ...], weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        dims = tuple(range(-len(shape), 0))
        scale = (x.detach().var(dims, correction=0, keepdim=True) + eps).rsqrt()
        return (x - x.mean(dims, keepdim=True)) * scale * weight + bias


def linearized_gradient_times_input(model: nn.Module, x: Tensor, target: int) -> Tensor:
    leaf = x.clone().requires_grad_()
    with Linearized():
        logit = model(leaf)[:, target].sum()
    # The twin computes what the model computes.
    torch.testing.assert_close(logit, model(x)[:, target].sum())
    (gradient,) = torch.autograd.grad(logit, leaf)
    return x * gradient


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTED)
def test_relevance_is_conserved(name: str) -> None:
    model, x = zoo.bias_free(name, batch=1)
    with torch.no_grad():
        logits = model(x)[0]
    target = int(logits.argmax())
    logit = float(logits[target])
    # No degenerate case: the logits are of a scale that means something, and no two classes share one.
    assert 1e-3 < logit < 1e3
    assert logits.std() > 1e-3 and (logits == logit).sum() == 1

    relevance = fxlrp.compile(model, rules=fxlrp.presets.epsilon(epsilon=EPSILON))(x, target=target)

    assert relevance.shape == x.shape and relevance.dtype == x.dtype
    assert relevance.isfinite().all()
    assert (relevance != 0).double().mean() > 0.5
    assert abs(float(relevance.sum()) / logit - 1) <= TOLERANCE
    # Epsilon itself takes 1e-4 of a pre-activation of 1e-8, and among millions there are such.
    assert_relevance(relevance, linearized_gradient_times_input(model, x, target), 1e-4)
