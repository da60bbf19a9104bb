"""Complex values inside a model: real and imaginary parts each carry relevance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import zoo
from fxlrp import presets
from fxlrp.errors import ExportError
from helpers import FRONT_ENDS, one_in
from oracles import assert_relevance, random

LRP0 = presets.epsilon(1e-12).override([("mul", fxlrp.rules.SignalTakeAll(stabilizer=1e-12))])


class Spectrum(nn.Module):
    """Multiply the spectrum by weights, as Fourier neural operators do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8, bias=False)
        self.weight = nn.Parameter(torch.complex(random(5, seed=2), random(5, seed=3)))
        self.head = nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(self.first(x)) * self.weight
        return self.head(torch.relu(torch.fft.irfft(spectrum, n=8)))


class Rotary(nn.Module):
    """Rotate pairs of features by complex numbers, as Llama does."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8, bias=False)
        angles = torch.outer(torch.arange(3.0), torch.tensor([1.0, 0.1, 0.01, 0.001])).double()
        self.register_buffer("rotation", torch.polar(torch.ones_like(angles), angles))
        self.head = nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(self.first(x).unflatten(-1, (-1, 2)))
        rotated = torch.view_as_real(pairs * self.rotation).flatten(-2)  # type: ignore[operator]
        return self.head(rotated.mean(1))


class Filtered(nn.Module):
    """A filter in the time-frequency plane."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(4, dtype=torch.float64) + 0.1)
        self.register_buffer("mask", random(3, 1, seed=4))
        self.head = nn.Linear(12, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.stft(x, 4, 2, window=self.window, return_complex=True)  # type: ignore[arg-type]
        return self.head(torch.istft(spectrum * self.mask, 4, 2, window=self.window, length=12))  # type: ignore[arg-type, operator]


class Constant(nn.Module):
    """A complex number as a constant, and the conjugate."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.complex(x, 2 * x) * (0.5 - 1.5j)
        return self.head(z.conj().real + 0.5 * z.imag)


NETS = {
    "spectrum": (Spectrum, (2, 8)),
    "rotary": (Rotary, (2, 3, 8)),
    "filtered": (Filtered, (2, 12)),
    "constant": (Constant, (2, 6)),
}


def net(name: str) -> tuple[nn.Module, Tensor]:
    make, shape = NETS[name]
    model = make().double()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            with torch.no_grad():
                module.weight.copy_(random(*module.weight.shape, seed=module.in_features))
    return model.eval(), random(*shape, seed=1)


def gradient_times_input(model: nn.Module, x: Tensor) -> Tensor:
    return zoo.gradient_times_input(model, x)[0]


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("name", one_in(2, NETS))
def test_lrp_0_is_gradient_times_input(name: str, capture: str, optimize: bool) -> None:
    model, x = net(name)
    explain = fxlrp.compile(model, LRP0, example_inputs=x, capture=capture, optimize=optimize)  # type: ignore[arg-type]
    assert_relevance(explain(x), gradient_times_input(model, x), 1e-9)


def test_the_epsilon_of_the_preset_is_that_of_complex_products() -> None:
    model, x = net("constant")
    found = fxlrp.compile(model, presets.epsilon(1e-12), example_inputs=x)(x)
    assert_relevance(found, gradient_times_input(model, x), 1e-9)


@pytest.mark.parametrize("name", ["spectrum", "rotary", "constant"])
def test_in_single_precision(name: str) -> None:
    model, x = net(name)
    wanted = gradient_times_input(model, x)
    for _, value in [*model.named_parameters(), *model.named_buffers()]:
        value.data = value.data.to(torch.complex64 if value.is_complex() else torch.float32)
    found = fxlrp.compile(model, LRP0, example_inputs=x.float())(x.float())
    assert found.dtype == torch.float32
    assert_relevance(found.double(), wanted, 1e-4)


@pytest.mark.parametrize("name", NETS)
def test_another_batch(name: str) -> None:
    model, x = net(name)
    explain = fxlrp.compile(model, LRP0, example_inputs=x)
    more = torch.cat([x, -0.5 * x.flip(0), x[:1]])
    assert_relevance(explain(more), gradient_times_input(model, more), 1e-9)


@pytest.mark.parametrize("name", one_in(2, NETS))
def test_node_by_node(name: str) -> None:
    """Every node conserves relevance, the real and the imaginary parts together."""
    model, x = net(name)
    explain = fxlrp.compile(model, LRP0, example_inputs=x)
    assert str(explain.debug(x))
    assert not explain.balance(x).leaks()


@pytest.mark.parametrize("name", NETS)
def test_code_and_table(name: str) -> None:
    model, x = net(name)
    explain = fxlrp.compile(model, LRP0, example_inputs=x)
    assert "def forward" in explain.code and explain.table()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_exported(name: str, tmp_path: Path) -> None:
    model, x = net(name)
    explain = fxlrp.compile(model, LRP0, example_inputs=x)
    if name not in ("rotary", "spectrum"):
        with pytest.raises(ExportError, match="batch"):
            explain.export(tmp_path / "explain.pt2", x)
        return
    explain.export(tmp_path / "explain.pt2", x)
    more, target = torch.cat([x, x + 1]), torch.tensor([0, 1, 2, 0])
    found = torch.export.load(tmp_path / "explain.pt2").module()(more, target)
    assert_relevance(found, explain(more, target=target), 1e-9)


@pytest.mark.slow
def test_under_torch_compile() -> None:
    model, x = net("spectrum")
    explain = fxlrp.compile(model, LRP0, example_inputs=x)
    compiled = torch.compile(explain, fullgraph=True, backend="aot_eager")
    assert_relevance(compiled(x), gradient_times_input(model, x), 1e-9)


class ComplexConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 1, 3, 2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x)[:, None]
        return torch.view_as_real(nn.functional.conv1d(spectrum, torch.view_as_complex(self.weight))).flatten(1)


def test_a_rule_that_is_not_defined_for_complex_values_is_refused() -> None:
    model, x = ComplexConvolution().eval(), random(2, 12)
    with pytest.raises(fxlrp.errors.RuleError, match=r"ZPlus.* is not defined for complex values.*conv1d"):
        fxlrp.compile(model, "epsilon_plus", example_inputs=x)
    explain = fxlrp.compile(model, presets.epsilon(1e-12), example_inputs=x)
    assert "complex: LRP-epsilon of real and imaginary parts" in explain.table()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).sum(), leaf)
    assert_relevance(explain(x, seed=lambda output: output), x * gradient, 1e-9)


def test_complex_values_that_the_compiler_does_not_know_are_refused() -> None:
    class Magnitudes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft(x).abs()

    model, x = Magnitudes().eval(), random(2, 8)
    with pytest.raises(fxlrp.errors.InputError, match="compile with example_inputs"):
        fxlrp.compile(model, "epsilon")(x, target=0)
    assert fxlrp.compile(model, "epsilon", example_inputs=x)(x, target=0).shape == x.shape


@pytest.mark.parametrize("capture", ["symbolic", "export"])
def test_a_cast_to_complex_numbers_passes_on_the_real_part_also_where_it_is_zero(capture: Any) -> None:
    """A function that is not zero at zero gives relevance to zeros behind it, and the cast moves it."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            parts = torch.view_as_real(torch.relu(x).cdouble())  # type: ignore[attr-defined]
            return self.head(torch.cos(parts).flatten(1))

    torch.manual_seed(0)
    model, x = Model().double().eval(), torch.randn(3, 6, dtype=torch.float64)
    found = fxlrp.compile(model, example_inputs=x, capture=capture)(x, target=1)
    behind = fxlrp.compile(model, example_inputs=x, capture=capture)(x, target=1, at="view_as_real")
    torch.testing.assert_close(found, behind[..., 0])
    shares = model.head.weight[1] * torch.cos(torch.view_as_real(x.relu().to(torch.complex128))).flatten(1)
    output = model(x)[:, 1:2]
    expected = (shares * output / (output + 1e-6 * output.sign())).reshape(3, 6, 2)[..., 0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("capture", ["symbolic", "export"])
def test_one_of_several_results_is_complex(capture: Any) -> None:
    """Gradient times input, in which the real and the imaginary parts are results of their own."""

    class Eigenvalues(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(torch.linalg.eig(x)[0]).flatten(1)

    model, x = Eigenvalues().eval(), random(2, 3, 3, seed=1)
    seed = random(2, 6, seed=2)
    found = fxlrp.compile(model, fxlrp.presets.gradient(), example_inputs=x, capture=capture)(x, seed=seed)
    leaf = x.clone().requires_grad_()
    output = model(leaf)
    quotient = torch.where(output == 0, 0.0, seed / output.detach())
    (gradient,) = torch.autograd.grad(output, leaf, quotient)
    assert_relevance(found, x * gradient, 1e-9)
