"""The presets that pass on gradients, against autograd with another ReLU in place of that of torch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import fxlrp
import zoo
from certified import Recurrent
from fxlrp import presets, rules
from fxlrp.errors import RuleError
from helpers import epsilon_with, slow_ones
from oracles import assert_relevance, random, randomize


def modified(backward: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """A ReLU with another gradient, from its input and the gradient that arrives."""

    class Modified(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * (x > 0)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return backward(x, gradients[0])

    return Modified


def plain(x: Tensor, g: Tensor) -> Tensor:
    return g * (x > 0)


def guided(x: Tensor, g: Tensor) -> Tensor:
    return g * (x > 0) * (g > 0)


def deconvolution(x: Tensor, g: Tensor) -> Tensor:
    return g * (g > 0)


def smooth(beta: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, g: g / (1 + torch.exp(-beta * x))


BACKWARD = {"guided_backprop": guided, "deconvnet": deconvolution, "beta_smooth": smooth(10.0)}


class OtherReLU(TorchFunctionMode):
    """Every call of a ReLU becomes one with a modified gradient."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.calls = function, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_):
            self.calls += 1
            return self.function.apply(args[0])
        clamps = func in (torch.clamp, Tensor.clamp, Tensor.clamp_, Tensor.clamp_min, torch.clamp_min)
        if clamps and (args[1:] or tuple(kwargs.values())) == (0,):
            self.calls += 1
            return self.function.apply(args[0])
        return func(*args, **kwargs)


def oracle(
    model: nn.Module, x: Tensor, seed: Tensor, backward: Callable[[Tensor, Tensor], Tensor], calls: int
) -> Tensor:
    x = x.clone().requires_grad_()
    with OtherReLU(modified(backward)) as mode:
        output = model(x)
    assert mode.calls == calls
    (found,) = torch.autograd.grad(output, x, grad_outputs=seed)
    return found


def one_hot(output: Tensor, target: int) -> Tensor:
    seed = torch.zeros_like(output)
    seed[:, target] = 1.0
    return seed


class Spellings(nn.Module):
    """ReLU in every spelling, and operations beside it that are not ReLUs."""

    calls = 7

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(8))
        self.module = nn.ReLU(inplace=True)
        self.norm = nn.LayerNorm(6)
        self.matrix = nn.Parameter(torch.empty(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d, e, f, g, h = self.layers
        x = self.module(a(x)) + x
        x = F.relu(b(x)) - 0.3
        x = torch.relu(c(x)) * torch.sigmoid(x)
        x = d(x).clamp(min=0) + F.gelu(x)
        x = self.norm(x) + e(x).relu()
        x = torch.clamp_min(f(x), 0) + x.clamp(-0.5, 0.5)
        x = x / (1 + x.square().sum(1, keepdim=True))
        return torch.softmax(h(torch.clamp(g(x), min=0) @ self.matrix), 1)


class Small(nn.Module):
    """Layers that need no sizes: the program is valid for every size at once."""

    calls = 2

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.up, self.head = nn.ConvTranspose2d(4, 4, 2), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        y = F.relu(self.up(F.max_pool2d(x, 2)))
        pooled = F.adaptive_avg_pool2d(F.avg_pool2d(x, 3), 1).flatten(1) - y.sum((2, 3)) / 7
        return self.head(torch.cat([y.mean((2, 3)), y.amax((2, 3)), pooled], 1))


def net(kind: type[nn.Module]) -> nn.Module:
    return randomize(kind())


def input_of(kind: type[nn.Module]) -> Tensor:
    return random(3, 6) if kind is Spellings else random(3, 2, 10, 10)


@pytest.mark.parametrize("preset", BACKWARD)
@pytest.mark.parametrize("kind", [Spellings, Small])
def test_modified_gradients(kind: type[Any], preset: str) -> None:
    model, x = net(kind), input_of(kind)
    expected = oracle(model, x, one_hot(model(x), 1), BACKWARD[preset], kind.calls)
    assert (expected - oracle(model, x, one_hot(model(x), 1), plain, kind.calls)).abs().max() > 1e-4
    for optimize in (True, False):
        explain = fxlrp.compile(model, preset, optimize=optimize)
        assert_relevance(explain(x, target=1), expected, 1e-9)


@pytest.mark.parametrize("name", slow_ones("googlenet"))
def test_modified_gradients_of_googlenet(name: str) -> None:
    model, x = zoo.calibrated(name, size=64)
    output = model(x)
    seed = torch.zeros_like(output).scatter(1, output.argmax(1, keepdim=True), 1.0)
    for preset, backward in BACKWARD.items():
        assert_relevance(fxlrp.compile(model, preset)(x), oracle(model, x, seed, backward, 57), 1e-5)


def test_beta() -> None:
    model, x = net(Small), input_of(Small)
    expected = oracle(model, x, one_hot(model(x), 2), smooth(0.5), Small.calls)
    assert_relevance(fxlrp.compile(model, presets.beta_smooth(beta=0.5))(x, target=2), expected)


def test_layers_without_sizes_need_no_examples() -> None:
    model, x = net(Small), input_of(Small)
    explain = fxlrp.compile(model, "guided_backprop")
    assert "conv" in explain.code
    for other in (x, random(2, 2, 14, 14)):
        expected = oracle(model, other, one_hot(model(other), 0), guided, Small.calls)
        assert_relevance(explain(other, target=0), expected)


# Where the gradient starts


def test_it_starts_with_one_at_the_largest_output() -> None:
    model, x = net(Small), input_of(Small)
    output = model(x)
    largest = output.argmax(1)
    seed = torch.zeros_like(output).scatter(1, largest.unsqueeze(1), 1.0)
    explain = fxlrp.compile(model, "deconvnet")
    expected = oracle(model, x, seed, deconvolution, Small.calls)
    for found in (explain(x), explain(x, target=largest), explain(x, seed=seed), explain(x, target=largest.tolist())):
        assert_relevance(found, expected)
    assert_relevance(explain(x, seed=-2 * seed), oracle(model, x, -2 * seed, deconvolution, Small.calls))


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 5


def test_an_output_of_zero_has_a_gradient() -> None:
    explain = fxlrp.compile(Scaled().eval(), "guided_backprop")
    assert explain(torch.zeros(1, 3), target=1).tolist() == [[0.0, 5.0, 0.0]]
    assert explain(torch.zeros(1, 3)).sum() == 5.0
    assert fxlrp.compile(Scaled().eval(), "epsilon")(torch.zeros(1, 3), target=1).abs().sum() == 0


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.hidden, self.head = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 9)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(torch.cumsum(self.tokens(ids), 1))))


@pytest.mark.parametrize("selected", [True, False])
def test_a_language_model_starts_at_its_last_position(selected: bool) -> None:
    model, ids = randomize(LanguageModel()), torch.tensor([[1, 5, 2, 0], [3, 3, 8, 7]])
    output = model(ids)
    seed = torch.zeros_like(output)
    for sample, best in enumerate(output[:, -1].argmax(-1)):
        seed[sample, -1, best] = 1.0
    vectors = model.tokens(ids).detach().requires_grad_()
    with OtherReLU(modified(guided)):
        output = model.head(torch.relu(model.hidden(torch.cumsum(vectors, 1))))
    (expected,) = torch.autograd.grad(output, vectors, grad_outputs=seed)
    optimize = fxlrp.Optimizations(select_positions=selected)
    at_vectors = fxlrp.compile(model, "guided_backprop", at="tokens", example_inputs=ids, optimize=optimize)
    assert_relevance(at_vectors(ids), expected)
    of_tokens = fxlrp.compile(model, "guided_backprop", example_inputs=ids, optimize=optimize)
    assert_relevance(of_tokens(ids), expected.sum(-1))


# The rules by themselves


@pytest.mark.parametrize("capture", ["symbolic", "export"])
def test_a_function_of_aten_that_has_no_row(capture: Any) -> None:
    """It is found by its name, as all functions of ``torch.ops`` are."""

    class Enlarged(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            larger: Tensor = torch.ops.aten._upsample_bilinear2d_aa(x, [7, 7], False)
            return larger.flatten(1)

    x = random(2, 3, 4, 4)
    explain = fxlrp.compile(Enlarged().eval(), presets.gradient(), example_inputs=x, capture=capture)
    leaf = x.clone().requires_grad_()
    out = Enlarged()(leaf)
    seed = random(*out.shape, seed=1)
    (gradient,) = torch.autograd.grad(out, leaf, seed)
    assert_relevance(explain(x, seed=out.detach() * seed), x * gradient)


def test_a_derivative_holds_no_divisor_constant() -> None:
    class Quotients(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.atan2(x / (1 + (x * y).square().sum(1, keepdim=True)), y)

    x, y = random(2, 4), random(2, 4, seed=1)
    x.requires_grad_(), y.requires_grad_()
    expected = torch.autograd.grad(Quotients()(x, y)[:, 2].sum(), (x, y))
    gradients = fxlrp.compile(Quotients().eval(), [("*", rules.Backpropagation())])
    seed = one_hot(x.detach(), 2)
    inputs = x.detach(), y.detach()
    for found, wanted in zip(gradients(*inputs, seed=seed).values(), expected, strict=True):
        assert_relevance(found, wanted)
    times_input = fxlrp.compile(Quotients().eval(), "gradient")(*inputs, target=2)
    for name, value, wanted in zip("xy", inputs, expected, strict=True):
        assert_relevance(times_input[name], value * wanted)


def test_a_divisor_stays_a_constant_under_other_rules() -> None:
    class Quotient(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / x.square().sum(1, keepdim=True)

    x = random(2, 4)
    explain = fxlrp.compile(Quotient().eval(), "epsilon")
    assert_relevance(explain(x, target=1), torch.zeros_like(x).index_copy(1, torch.tensor([1]), Quotient()(x)[:, 1:2]))


def test_rules_of_relu_in_a_list() -> None:
    model, x = net(Small), input_of(Small)
    explain = fxlrp.compile(model, presets.guided_backprop().override([("relu", rules.DeconvReLU())]))
    assert_relevance(explain(x, target=0), oracle(model, x, one_hot(model(x), 0), deconvolution, Small.calls))
    with pytest.raises(RuleError, match="fits none"):
        fxlrp.compile(nn.Sequential(nn.GELU()).eval(), [("gelu", rules.GuidedReLU())], example_inputs=random(2, 3))
    with pytest.raises(RuleError, match="SmoothReLU: beta must be a finite number of at least 0, not -1"):
        rules.SmoothReLU(-1)


def test_a_clamp_that_is_no_relu_says_so() -> None:
    class Clamped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clamp(min=0) + x.clamp(min=-1)

    explain = fxlrp.compile(Clamped().eval(), "deconvnet", example_inputs=random(2, 3))
    reasons = [node.meta["fxlrp"].reason for node in explain.nodes if "clamp" in node.name and "fxlrp" in node.meta]
    assert [reason.endswith("not a ReLU: its gradient") for reason in reasons] == [False, True]
    x = torch.tensor([[-2.0, -0.5, 3.0]])
    assert explain(x, seed=torch.ones(1, 3)).tolist() == [[1.0, 2.0, 2.0]]


def test_recipes_keep_where_they_start(tmp_path: Any) -> None:
    model, x = net(Small), input_of(Small)
    explain = fxlrp.compile(model, "beta_smooth", example_inputs=x)
    explain.save(tmp_path / "recipe.json")
    assert torch.equal(fxlrp.load(tmp_path / "recipe.json", model)(x, target=1), explain(x, target=1))


def test_in_the_backward_of_a_model() -> None:
    model, x = net(Small), input_of(Small)
    expected = oracle(model, x, one_hot(model(x), 1), guided, Small.calls)
    leaf = x.clone().requires_grad_()
    fxlrp.autograd(model, "guided_backprop")(leaf)[:, 1].sum().backward()
    assert leaf.grad is not None
    assert_relevance(leaf.grad, expected)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_in_single_precision(kind: Any) -> None:
    """Their kernel in single precision gives derivatives to autograd only."""

    torch.manual_seed(0)
    model = Recurrent(kind(4, 6, batch_first=True)).eval()
    explain = fxlrp.compile(model, epsilon_with(("layer", rules.Gradient())), example_inputs=torch.randn(2, 4, 4))
    for length in (5, 3):
        x = torch.randn(2, length, 4)
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
        torch.testing.assert_close(explain(x, target=1), x * gradient, rtol=1e-4, atol=1e-6)
