"""Relevance that autograd can differentiate: its derivative against central differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import fxlrp
from derivatives import NETS, PRESETS, assert_is_derivative, made
from fxlrp import rules
from fxlrp.errors import InputError, UnsupportedOpError
from fxlrp.passes import compiler_pass
from fxlrp.program import Program
from helpers import FRONT_ENDS, one_in
from oracles import One, assert_relevance, random

_CASES = [pytest.param((net, preset), id=f"{net}, {preset}") for net in NETS for preset in PRESETS]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("case", list(one_in(5, _CASES)))
def test_every_preset(case: tuple[str, str], optimize: bool) -> None:
    net, preset = case
    model, x = made(net)
    explain = fxlrp.compile(model, PRESETS[preset], optimize=optimize, differentiable=True, example_inputs=x)
    plain = fxlrp.compile(model, PRESETS[preset], example_inputs=x)
    assert_relevance(explain(x, target=1).detach(), plain(x, target=1), 1e-10)
    assert_is_derivative(explain, plain, x, target=1)


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("examples", [True, False])
def test_both_front_ends_also_at_the_first_call(capture: Any, examples: bool) -> None:
    model, x = made("transformer block")
    explain = fxlrp.compile(
        model, PRESETS["attnlrp"], capture=capture, differentiable=True, example_inputs=x if examples else None
    )
    given = (x * 1).requires_grad_()
    # Not a leaf, as behind a learned preprocessing.
    explain(given * 1, target=0).sum().backward()
    assert given.grad is not None and given.grad.abs().max() > 1e-6
    assert_is_derivative(explain, fxlrp.compile(model, PRESETS["attnlrp"], example_inputs=x), x, target=0)


class _InstanceNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.out = nn.InstanceNorm1d(4, affine=True), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(x).flatten(1))


_NORMS: dict[str, Callable[[], nn.Module]] = {
    "layer_norm": lambda: nn.Sequential(nn.LayerNorm(3), nn.Flatten(1), nn.Linear(12, 2)),
    "group_norm": lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.Flatten(1), nn.Linear(12, 2)),
    "rms_norm": lambda: nn.Sequential(nn.RMSNorm(3), nn.Flatten(1), nn.Linear(12, 2)),
    "instance_norm": _InstanceNorm,
    "local_response_norm": lambda: nn.Sequential(nn.LocalResponseNorm(3), nn.Flatten(1), nn.Linear(12, 2)),
    "batch_norm": lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Flatten(1), nn.Linear(12, 2)),
}


@pytest.mark.parametrize("norm", _NORMS)
def test_the_statistics_of_norms(norm: str) -> None:
    """The kernels of PyTorch return statistics without a derivative, and say nothing."""
    torch.manual_seed(1)
    model, x = _NORMS[norm]().double().eval(), random(2, 4, 3)
    explain = fxlrp.compile(model, PRESETS["epsilon"], differentiable=True)
    assert_is_derivative(explain, fxlrp.compile(model, PRESETS["epsilon"]), x, target=1)


_ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
    "softmax": lambda x: torch.softmax(x, -1),
    "log_softmax": lambda x: torch.log_softmax(x, -1),
    "logsumexp": lambda x: torch.logsumexp(x, -1, keepdim=True),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=-1, keepdim=True),
}


@pytest.mark.parametrize("preset", ["gradient", "epsilon"])
@pytest.mark.parametrize("name", _ELEMENTWISE)
def test_derived_steps(name: str, preset: str) -> None:
    function = _ELEMENTWISE[name]
    model, x = One(lambda x: function(x) * 2).eval(), random(2, 3, 4) + 0.2
    explain, plain = (
        fxlrp.compile(model, PRESETS[preset], differentiable=each, example_inputs=x) for each in (True, False)
    )
    assert_is_derivative(explain, plain, x, seed=torch.square)


def test_a_mask_of_infinite_scores() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mask = torch.full((4, 4), float("-inf"), dtype=x.dtype).triu(1)
            return torch.softmax(x @ x.mT + mask, -1) @ x

    x = random(2, 4, 3)
    for optimize in (True, False):
        explain = fxlrp.compile(Masked().eval(), "attnlrp", optimize=optimize, differentiable=True, example_inputs=x)
        plain = fxlrp.compile(Masked().eval(), "attnlrp", example_inputs=x)
        assert_is_derivative(explain, plain, x, seed=random(2, 4, 3, seed=4))


def test_checkpoints_and_recurrent_layers() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.recurrent(x)[0][:, -1])

    torch.manual_seed(4)
    model, x = made("folded BatchNorm")
    cases = [(model, x, True), (Last().double().eval(), random(2, 3, 4), False)]
    for net, inputs, checkpoint in cases:
        options: dict[str, Any] = {"checkpoint": checkpoint, "example_inputs": inputs}
        explain = fxlrp.compile(net, PRESETS["epsilon"], differentiable=True, **options)
        plain = fxlrp.compile(net, PRESETS["epsilon"], example_inputs=inputs)
        assert_is_derivative(explain, plain, inputs, target=1)


def test_several_questions() -> None:
    model, x = made("convolutions")
    explain, plain = (fxlrp.compile(model, PRESETS["epsilon_plus"], differentiable=each) for each in (True, False))
    assert_is_derivative(explain, plain, x, target=fxlrp.targets.each([0, 2]))
    assert_is_derivative(explain, plain, x, target=1, at="3")
    assert_is_derivative(explain, plain, x, target=1, only={"0": [0, 2]})


def test_relevance_is_a_function_of_the_seed() -> None:
    model, x = made("gated MLP")
    explain = fxlrp.compile(model, PRESETS["epsilon"], differentiable=True)
    seed = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(explain(x, seed=seed).sum(), seed)
    for index in range(3):
        one = F.one_hot(torch.tensor([index, index]), 3).double()
        assert_relevance(found[:, index], explain(x, seed=one).detach().sum(1), 1e-10)


def test_no_gradient_where_none_is_wanted() -> None:
    model, x = made("convolutions")
    explain = fxlrp.compile(model, differentiable=True)
    assert explain(x).requires_grad
    with torch.no_grad():
        assert not explain(x).requires_grad
    with torch.inference_mode():
        assert not explain(x).requires_grad
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert not explain(x).requires_grad
    assert not fxlrp.compile(model)(x.requires_grad_()).requires_grad


def test_the_graph_keeps_nothing_and_writes_into_nothing() -> None:
    model, x = made("transformer block")
    explain = fxlrp.compile(model, "attnlrp", differentiable=True, example_inputs=x)
    names = {getattr(node.target, "__name__", "") for node in explain.graph_module.graph.nodes}
    assert not any(name.endswith("_") and not name.startswith("_") for name in names)
    assert "attention" not in names
    before = explain(x, target=0).detach()
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    assert (explain(x, target=0) - before).abs().max() > 1e-6


def test_an_operation_without_a_derivative_is_an_error_that_names_the_node() -> None:
    """The derivative of a nested kernel is not implemented in PyTorch."""

    def once(x: Tensor) -> Tensor:
        return torch.ops.aten.silu_backward.default(torch.ones_like(x), x)

    def pass_on(x: Tensor, out: Tensor, relevance: Tensor) -> Tensor:
        return relevance * torch.ops.aten.silu_backward.default(x, x)

    extension = fxlrp.rule_for(once)(pass_on)
    model = nn.Sequential(nn.Linear(3, 4), One(once)).double().eval()
    x = random(2, 3)
    explain = fxlrp.compile(model, extensions=[extension], differentiable=True)
    with pytest.raises(UnsupportedOpError, match=r"no derivative .*node .*module '1'.*choose another rule"):
        explain(x, target=0)
    with torch.no_grad():
        assert explain(x, target=0).abs().max() > 1e-6


def test_a_pass_that_cuts_derivatives_is_refused() -> None:
    @compiler_pass(after=["emit_relevance"], cuts_derivatives=True)
    def write_in_place(program: Program) -> int:
        return 0

    with pytest.raises(InputError, match="write_in_place cuts derivatives"):
        fxlrp.compile(nn.Linear(3, 2).eval(), passes=[write_in_place], differentiable=True)
    fxlrp.compile(nn.Linear(3, 2).eval(), passes=[write_in_place])


def test_the_option_is_checked_and_part_of_the_recipe(tmp_path: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double().eval()
    with pytest.raises(InputError, match="differentiable must be True or False, not 1"):
        fxlrp.compile(model, differentiable=1)  # type: ignore[arg-type]
    for differentiable in (True, False):
        fxlrp.compile(model, differentiable=differentiable).save(tmp_path / "explain.json")
        again = fxlrp.load(tmp_path / "explain.json", model)
        assert again.differentiable == differentiable
        assert again(random(2, 3)).requires_grad == differentiable


def test_relevance_of_a_dense_layer_before_batch_norm_by_the_gradient() -> None:
    """The weights of the folded layer have known sizes, which the derived step needs."""
    model, x = made("folded BatchNorm")
    given = x.clone().requires_grad_()
    model(given)[:, 1].sum().backward()
    found = fxlrp.compile(model, "gradient", example_inputs=x)(x, target=1)
    assert given.grad is not None
    assert_relevance(found, x * given.grad, 1e-9)


def test_training_mode_of_the_model_does_not_matter() -> None:
    model, x = made("folded BatchNorm")
    explain = fxlrp.compile(model, PRESETS["epsilon"], differentiable=True)
    expected = explain(x, target=1).detach()
    model.train()
    assert explain.train() is explain and model.training
    assert_relevance(explain(x, target=1).detach(), expected, 1e-12)
    # One step on the logits in training mode and on the explanation.
    loss = F.cross_entropy(model(x), torch.tensor([0, 1])) + explain(x, target=1).square().sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_compiled() -> None:
    model, x = made("gated MLP")
    explain = fxlrp.compile(model, PRESETS["epsilon"], differentiable=True)
    compiled: Any = torch.compile(explain, fullgraph=True, backend="aot_eager")
    gradients = []
    for run in (explain, compiled):
        given = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(run(given, target=1).square().sum(), given)[0])
    assert_relevance(gradients[1], gradients[0], 1e-10)


def test_every_node_of_the_product_is_a_call() -> None:
    model, x = made("gated MLP")
    explain = fxlrp.compile(model, [("*", rules.Gradient())], differentiable=True, example_inputs=x)
    ops = {node.op for node in explain.graph_module.graph.nodes if isinstance(node, fx.Node)}
    assert ops == {"placeholder", "get_attr", "call_function", "output"}
