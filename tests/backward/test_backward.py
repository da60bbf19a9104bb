"""Relevance in the backward: `fxlrp.autograd` and the backend of torch.compile."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.testing import CompileCounterWithBackend

import fxlrp
import zoo
from fxlrp.backward.dynamo import named_backend
from fxlrp.errors import CaptureError
from helpers import LRP0, compiler_needed, repeated, slow_ones
from oracles import assert_relevance, random

WAYS: dict[str, Callable[..., Any]] = {
    "autograd": lambda model, rules, **options: fxlrp.autograd(model, rules, **options),
    "backend": lambda model, rules, **options: torch.compile(model, backend=fxlrp.backend(rules, **options)),
    "backend, open sizes": lambda model, rules, **options: torch.compile(
        model, backend=fxlrp.backend(rules, **options), dynamic=True
    ),
    "by name": lambda model, rules, **options: torch.compile(
        model, backend=named_backend, options={"rules": rules, **options}
    ),
}
pytestmark = pytest.mark.usefixtures("fresh_compiler")

ways = pytest.mark.parametrize("way", WAYS)


def relevance(explained: Any, *inputs: Tensor, select: Callable[[Any], Tensor] = zoo.largest) -> tuple[Any, ...]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    select(explained(*leaves)).backward()
    return tuple(leaf.grad for leaf in leaves)


@pytest.mark.sampled(3, "name")
@pytest.mark.slow
@pytest.mark.parametrize("way", ["autograd", "backend", *slow_ones("backend, open sizes", "by name")])
@pytest.mark.parametrize("name", sorted(zoo.SMALL_NETS))
def test_lrp0_is_gradient_times_input(name: str, way: str) -> None:
    model, inputs = zoo.small_net(name)
    expected = zoo.gradient_times_input(model, *inputs)
    options = {"example_inputs": inputs} if way == "autograd" else {}
    for ours, theirs in zip(relevance(WAYS[way](model, LRP0, **options), *inputs), expected, strict=True):
        assert_relevance(ours, theirs, 1e-9)


@ways
@pytest.mark.parametrize("preset", ["epsilon_plus_flat", "epsilon_alpha2_beta1_flat", "attnlrp"])
def test_a_logit_has_the_relevance_of_an_explanation(preset: str, way: str) -> None:
    model, (x,) = zoo.small_net("residual")
    expected = fxlrp.compile(model, preset)(x, target=2)
    (found,) = relevance(WAYS[way](model, preset), x, select=lambda out: out[:, 2].sum())
    assert_relevance(found, expected, 1e-10)


@ways
def test_what_follows_the_outputs_is_continued_by_lrp0(way: str) -> None:
    model, (x,) = zoo.small_net("residual")
    explain, explained = fxlrp.compile(model, "epsilon_plus"), WAYS[way](model, "epsilon_plus")
    (difference,) = relevance(explained, x, select=lambda out: (out[:, 2] - out[:, 0]).sum())
    assert_relevance(difference, explain(x, target=2) - explain(x, target=0), 1e-10)
    (chances,) = relevance(explained, x, select=lambda out: out.softmax(-1)[:, 1].sum())
    logits = model(x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(logits.softmax(-1)[:, 1].sum(), logits)
    assert_relevance(chances, explain(x, seed=gradient * logits.detach()), 1e-10)


@ways
def test_outputs_are_the_models_and_parameters_get_nothing(way: str) -> None:
    model, (x,) = zoo.small_net("residual")
    before = copy.deepcopy(model.state_dict())
    explained = WAYS[way](model, "epsilon")
    out = explained(x.clone().requires_grad_())
    torch.testing.assert_close(out, model(x), rtol=1e-12, atol=1e-12)
    out.sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@ways
def test_no_relevance_where_none_is_asked_for(way: str) -> None:
    model, (x,) = zoo.small_net("residual")
    explained = WAYS[way](model, "epsilon")
    with torch.no_grad():
        out = explained(x.clone().requires_grad_())
    assert not out.requires_grad
    torch.testing.assert_close(out, model(x).detach(), rtol=1e-12, atol=1e-12)
    model, inputs = zoo.small_net("two_inputs")
    explained, first = WAYS[way](model, "epsilon"), inputs[0].clone().requires_grad_()
    zoo.largest(explained(first, inputs[1])).backward()
    assert first.grad is not None and inputs[1].grad is None
    assert_relevance(first.grad, fxlrp.compile(model, "epsilon")(*inputs)["x"], 1e-10)


class Answer(NamedTuple):
    logits: Tensor
    more: dict[str, Any]


class ManyOutputs(nn.Module):
    """Returns a structure with one tensor twice, an input's part, and what no relevance leaves from."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Answer:
        hidden = torch.relu(self.first(x))
        logits = self.second(hidden)
        return Answer(logits, {"hidden": [hidden, hidden], "winner": logits.argmax(-1), "name": "answer", "x": 2 * x})


@ways
def test_every_output_may_be_explained(way: str) -> None:
    torch.manual_seed(0)
    model, x = ManyOutputs().double().eval(), random(3, 4)

    def select(out: Answer) -> Tensor:
        first, again = out.more["hidden"]
        return out.logits[:, 1].sum() + first[:, 0].sum() + 2 * again[:, 1].sum() + out.more["x"].sum()

    (found,) = relevance(WAYS[way](model, LRP0), x, select=select)
    (expected,) = zoo.gradient_times_input(model, x, select=select)  # type: ignore[arg-type]
    assert_relevance(found, expected, 1e-12)
    out = WAYS[way](model, LRP0)(x.requires_grad_())
    assert isinstance(out, Answer) and out.more["name"] == "answer"
    assert torch.equal(out.more["winner"], model(x).logits.argmax(-1)) and not out.more["winner"].requires_grad


@ways
def test_weights_are_those_of_the_call(way: str) -> None:
    model, (x,) = zoo.small_net("residual")
    explained = WAYS[way](model, "epsilon_plus")
    relevance(explained, x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-0.7)
    (found,) = relevance(explained, x)
    assert_relevance(found, fxlrp.compile(model, "epsilon_plus")(x), 1e-10)
    out = explained(x.clone().requires_grad_())
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@ways
def test_a_second_backward_gives_the_same(way: str) -> None:
    model, (x,) = zoo.small_net("residual")
    leaf = x.clone().requires_grad_()
    total = zoo.largest(WAYS[way](model, "epsilon_plus")(leaf))
    first, second = (torch.autograd.grad(total, leaf, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_another_batch_does_not_recompile() -> None:
    model, (x,) = zoo.small_net("residual")
    count, backend = 0, fxlrp.backend("epsilon_plus")

    def counting(graph_module: torch.fx.GraphModule, examples: list[Any]) -> Any:
        nonlocal count
        count += 1
        return backend(graph_module, examples)

    explained, explain = torch.compile(model, backend=counting, dynamic=True), fxlrp.compile(model, "epsilon_plus")
    for batch in (2, 3, 7):
        images = x[:1].repeat(batch, 1, 1, 1) * torch.arange(1, batch + 1)[:, None, None, None]
        assert_relevance(relevance(explained, images)[0], explain(images), 1e-10)
    assert count == 1


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        torch._dynamo.graph_break()  # the break
        out: Tensor = self.second(torch.relu(hidden))
        return out


def test_a_graph_break_is_an_error_that_names_the_line() -> None:
    explained = torch.compile(Broken().eval(), backend=fxlrp.backend("epsilon"))
    with pytest.raises(
        BackendCompilerFailed, match=r"several graphs at .*test_backward.py:\d+: .*# the break"
    ) as error:
        explained(torch.randn(2, 4, requires_grad=True))
    assert isinstance(error.value.inner_exception, CaptureError)


def test_a_graph_break_does_no_harm_without_relevance() -> None:
    model, x = Broken().eval(), torch.randn(2, 4)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend=fxlrp.backend("epsilon"))(x), model(x))


def test_rules_match_modules_and_paths() -> None:
    model, (x,) = zoo.small_net("residual")
    first, dense, add = fxlrp.rules.Flat(), fxlrp.rules.Epsilon(0.1), fxlrp.rules.Epsilon(0.2)
    pairs: Any = [("conv1", first), (nn.Linear, dense), ("add", add)]
    expected = fxlrp.compile(model, pairs)(x)
    for way in WAYS:
        assert_relevance(relevance(WAYS[way](model, pairs), x)[0], expected, 1e-10)


def test_errors_name_the_users_line() -> None:
    class Unknown(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)  # the operation

    for way in WAYS:
        with pytest.raises(
            (fxlrp.errors.UnsupportedOpError, BackendCompilerFailed), match=r"bessel_j0.*# the operation"
        ):
            relevance(WAYS[way](Unknown().eval(), "epsilon"), torch.rand(2, 3))


def test_unknown_options_are_refused() -> None:
    explained = torch.compile(nn.Linear(2, 2).eval(), backend=named_backend, options={"rule": "epsilon"})
    with pytest.raises(BackendCompilerFailed, match="no option 'rule'"):
        explained(torch.rand(1, 2, requires_grad=True))


def test_a_function_that_holds_models_can_be_compiled() -> None:
    model, (x,) = zoo.small_net("residual")

    @torch.compile(backend=fxlrp.backend(LRP0))
    def scores(x: Tensor) -> Tensor:
        return model((x - 0.5) / 0.25)[:, :2]

    (found,) = relevance(scores, x, select=lambda out: out[:, 1].sum())
    (expected,) = zoo.gradient_times_input(lambda x: model((x - 0.5) / 0.25), x, select=lambda out: out[:, 1].sum())
    assert_relevance(found, expected, 1e-9)


class OnSizes(nn.Module):
    """What symbolic tracing cannot follow: it branches on the length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor | None = None, embeddings: Tensor | None = None) -> dict[str, Tensor]:
        x = self.embedding(tokens) if embeddings is None else embeddings
        if x.shape[1] > 1:
            x = x + torch.relu(self.mix(x))
        return {"logits": self.head(x.mean(1))}


@pytest.mark.slow
@ways
def test_inputs_by_name_for_what_torch_export_captures(way: str) -> None:
    torch.manual_seed(0)
    model, tokens = OnSizes().double().eval(), torch.tensor([[1, 3, 3, 8], [0, 2, 5, 1]])
    explained = WAYS[way](model, LRP0)
    for length in (4, 3):
        embeddings = model.embedding(tokens[:, :length]).detach().requires_grad_()
        explained(embeddings=embeddings)["logits"][:, 2].sum().backward()
        assert embeddings.grad is not None
        expected = fxlrp.compile(model, LRP0, output="logits")(tokens[:, :length], target=2)
        assert_relevance(embeddings.grad.sum(-1), expected, 1e-12)


def test_what_is_saved_is_what_relevance_needs() -> None:
    """The forward part computes outputs only; a layer's z+ is computed when relevance is asked for."""
    model, _ = zoo.small_net("residual")
    halves: Any = fxlrp.autograd(model, "epsilon_plus")._halves.require("the split program")
    forward, backward = (part.__self__ for part in (halves.split.forward, halves.split.relevance))
    assert isinstance(forward, torch.fx.GraphModule) and isinstance(backward, torch.fx.GraphModule)
    called = {str(getattr(node.target, "__name__", node.target)) for node in forward.graph.nodes}
    assert "conv2d" in called and "positive" not in called and "positive" in backward.code
    returned: Any = forward.graph.output_node().args[0]
    taken = [node for node in backward.graph.nodes if node.op == "placeholder"]
    assert len(taken) == len(returned[1]) + 1
    assert all(node.users for node in taken)


@pytest.mark.sampled(2, "compiler")
@pytest.mark.slow
@pytest.mark.parametrize("way", ["autograd", "backend, open sizes"])
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, compiler_needed])])
def test_both_parts_may_be_compiled(compiler: str, way: str) -> None:
    model, (x,) = zoo.small_net("residual")
    explained = WAYS[way](model, "epsilon_plus_flat", compiler=compiler)
    # Inductor takes twenty seconds for a batch size, and as long for one that is open.
    for batch in (2, 3) if compiler == "aot_eager" else (3,):
        images = x[:1].repeat(batch, 1, 1, 1) * torch.arange(1, batch + 1)[:, None, None, None]
        assert_relevance(relevance(explained, images)[0], fxlrp.compile(model, "epsilon_plus_flat")(images), 1e-9)


def test_the_parts_are_one_graph_each() -> None:
    model, (x,) = zoo.small_net("residual")
    counter = CompileCounterWithBackend("aot_eager")
    explained = WAYS["backend, open sizes"](model, "epsilon_plus", compiler=counter)
    for batch in (2, 3, 5, 7):
        relevance(explained, x[:1].repeat(batch, 1, 1, 1))
    # Two parts, each for the first batch size and then for any.
    assert counter.frame_count == 4


@ways
def test_the_logs_show_what_is_made(way: str, caplog: pytest.LogCaptureFixture) -> None:
    model, (x,) = zoo.small_net("residual")
    with caplog.at_level("DEBUG", "fxlrp"):
        relevance(WAYS[way](model, "epsilon"), x)
    said = [record.message for record in caplog.records if record.name.startswith("fxlrp.")]
    assert any(message.startswith("fold_batch_norm: 3") for message in said)
    assert any("preset default: conv2d" in message or "default: linear" in message for message in said)
    assert any("gradient_of_head" in message and "the generated program" in message for message in said)


@pytest.mark.sampled(3, "name")
@pytest.mark.slow
@ways
@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "vit_b_16", *repeated("resnet50", "densenet121", "convnext_tiny")]
)
def test_real_models(name: str, way: str) -> None:
    model, x = zoo.calibrated(name)
    (found,) = relevance(WAYS[way](model, "epsilon_plus_flat"), x, select=lambda out: out[:, 3].sum())
    assert_relevance(found, fxlrp.compile(model, "epsilon_plus_flat")(x, target=3), 1e-5)


class Loop(nn.Module):
    """Breaks inside a loop: TorchDynamo runs the forward in eager Python and compiles its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = ManyLayers()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = self.inner(x)
            torch._dynamo.graph_break()
        return x


class ManyLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x))


class Disabled(nn.Module):
    """Its first layer runs in eager Python, before any operation of a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch._dynamo.disable(lambda x: self.first(x))(x))


@pytest.mark.parametrize("model", [Loop, Disabled])
def test_parts_of_a_model_are_refused(model: type[nn.Module]) -> None:
    explained = torch.compile(model().eval(), backend=fxlrp.backend("epsilon"))
    with pytest.raises(BackendCompilerFailed, match="Relevance cannot pass between graphs"):
        relevance(explained, torch.rand(2, 4))


def test_a_frame_that_is_compiled_too_often_is_an_error() -> None:
    model = nn.Linear(4, 3).eval()
    explained = torch.compile(lambda x: model(x), backend=fxlrp.backend(LRP0), dynamic=False)
    with pytest.raises(BackendCompilerFailed, match="is compiled for the 8th time"):
        for batch in range(2, 20):
            x = torch.rand(batch, 4)
            assert_relevance(relevance(explained, x)[0], zoo.gradient_times_input(model, x)[0], 1e-5)


def test_suppressed_errors_are_not() -> None:
    with torch._dynamo.config.patch(suppress_errors=True), pytest.raises(CaptureError, match="suppress_errors"):
        relevance(torch.compile(nn.Linear(4, 3).eval(), backend=fxlrp.backend()), torch.rand(2, 4))


GLOBAL = torch.tensor([2.0, 3.0, 4.0, 5.0], dtype=torch.float64)


def test_tensors_that_no_caller_gives_are_constants() -> None:
    closed, model = GLOBAL + 1, nn.Linear(4, 3).double().eval()
    model.held = GLOBAL + 2
    explained = torch.compile(lambda x: model(x * closed * GLOBAL * model.held), backend=fxlrp.backend(LRP0))
    x = random(2, 4)
    (expected,) = zoo.gradient_times_input(lambda x: model(x * closed * GLOBAL * model.held), x)
    assert_relevance(relevance(explained, x)[0], expected, 1e-12)
    parameter = nn.Parameter(x)
    zoo.largest(torch.compile(model, backend=fxlrp.backend(LRP0))(parameter)).backward()
    assert_relevance(parameter.grad, zoo.gradient_times_input(model, x)[0], 1e-12)  # type: ignore[arg-type]


@ways
def test_autocast_around_the_forward_alone(way: str) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.rand(2, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = WAYS[way](model, "epsilon")(x)
        expected = fxlrp.compile(model, "epsilon")(x.detach(), target=1)
    out[:, 1].sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("mask", torch.tensor([0.0, 0.0, -torch.inf]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x) + self.mask, torch.log(x - x)


@ways
def test_infinite_outputs_that_nobody_asks_for(way: str) -> None:
    model, x = Masked().eval(), torch.rand(2, 4)
    (found,) = relevance(WAYS[way](model, "epsilon"), x, select=lambda out: out[0][:, 1].sum())
    torch.testing.assert_close(found, fxlrp.compile(model, "epsilon", output=0)(x, target=1))


@ways
def test_changes_of_inputs_are_refused(way: str) -> None:
    class Changes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2) + 1

    with pytest.raises((CaptureError, BackendCompilerFailed), match=r"changes its input .* in place"):
        WAYS[way](Changes().eval(), "epsilon")(torch.rand(2, 3, requires_grad=True) * 1)


@ways
def test_outputs_of_inputs_that_ask_for_nothing(way: str) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return x + 2 * y, 3 * y

    both, other = WAYS[way](Two().eval(), "epsilon")(torch.rand(2, 3, requires_grad=True), torch.rand(2, 3))
    assert both.requires_grad and not other.requires_grad


@ways
def test_relevance_has_no_derivative(way: str) -> None:
    model, x = nn.Linear(4, 3).eval(), torch.rand(2, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="create_graph"):
        torch.autograd.grad(WAYS[way](model, "epsilon")(x).sum(), x, create_graph=True)


def test_a_model_with_another_root_rule() -> None:
    model, (x,) = zoo.small_net("arithmetic")
    for pairs in ([("*", fxlrp.rules.Epsilon(0.3))], [(type(model), fxlrp.rules.Epsilon(0.3))]):
        expected = fxlrp.compile(model, pairs)(x)
        for way in WAYS:
            assert_relevance(relevance(WAYS[way](model, pairs), x)[0], expected, 1e-10)


def test_inputs_are_checked_as_an_explainers() -> None:
    class Times(nn.Module):
        def forward(self, x: Tensor, k: Tensor, *, scale: float = 1.0) -> Tensor:
            return x * k * scale

    x = torch.rand(2, 3, requires_grad=True)
    with pytest.raises(fxlrp.errors.InputError, match=r"'k' is torch\.int64"):
        fxlrp.autograd(Times().eval())(x, torch.ones(3, dtype=torch.long))
    explained = fxlrp.autograd(Times().eval(), example_inputs={"x": x, "k": torch.ones(3), "scale": 2.5})
    torch.testing.assert_close(explained(x, torch.ones(3), scale=float("2.5")), 2.5 * x)
    with pytest.raises(fxlrp.errors.InputError, match=r"captured with scale=2\.5"):
        explained(x, torch.ones(3))


class ByName(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(size=(3,), dtype=x.dtype)


@ways
def test_calls_with_arguments_by_name_alone(way: str) -> None:
    x = random(2, 3)
    expected = fxlrp.compile(ByName().eval(), "epsilon")(x, target=1)
    (found,) = relevance(WAYS[way](ByName().eval(), "epsilon"), x, select=lambda out: out[:, 1].sum())
    assert_relevance(found, expected, 1e-12)


class OwnPrecision(nn.Module):
    """Computes in a precision of its own choice, which a graph of operations would not."""

    def __init__(self, enabled: bool) -> None:
        super().__init__()
        self.layer, self.enabled = nn.Linear(4, 3), enabled

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.enabled):
            y = self.layer(x)
        return y.float() * 2


@ways
def test_autocast_inside_a_model_is_kept_or_refused(way: str) -> None:
    model, x = OwnPrecision(True).eval(), torch.rand(2, 4)
    if way == "autograd":
        # torch.export records the casts.
        out = fxlrp.autograd(model, "epsilon", example_inputs=x)(x)
        assert torch.equal(out, model(x).detach())
    else:
        with pytest.raises(BackendCompilerFailed, match="autocast region"):
            relevance(WAYS[way](model, "epsilon"), x)
    torch.compiler.reset()
    model = OwnPrecision(False).eval()
    torch.testing.assert_close(relevance(WAYS[way](model, LRP0), x), zoo.gradient_times_input(model, x))


def test_symbolic_tracing_refuses_autocast_inside_a_model() -> None:
    with pytest.raises(CaptureError, match="autocast region"):
        fxlrp.compile(OwnPrecision(True).eval(), capture="symbolic")
    assert fxlrp.compile(OwnPrecision(True).eval(), example_inputs=torch.rand(2, 4)).front_end == "export"
