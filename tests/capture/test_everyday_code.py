"""Code that people write and that tracing is known to get wrong: the answer is right, or refused by name.

LRP-0 equals gradient times input, and the captured forward equals the model.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from fxlrp import presets, rules
from fxlrp.errors import CaptureError, FxlrpError, InputError, RuleError, UnsupportedOpError
from helpers import lrp0, repeated
from oracles import assert_relevance
from zoo import gradient_times_input

Forward = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """Three linear layers 4 -> 4, and a forward of the test's."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.body = forward
        self.register_buffer("wide", torch.linspace(1, 2, 4, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def net(forward: Forward) -> Net:
    model = Net(forward).eval()
    return model.double()


def into_full(s: Any, x: Tensor) -> Tensor:
    out = torch.full((x.shape[0], 8), 0.0, dtype=x.dtype)
    out[:, :4] = s.a(x)
    return s.b(out[:, :4]) + s.c(x)


def into_zeros(s: Any, x: Tensor) -> Tensor:
    out = torch.zeros(x.shape[0], 4, dtype=x.dtype)
    out.add_(s.a(x))
    out += s.b(x)
    return s.c(out)


def by_type(s: Any, x: Tensor) -> Tensor:
    return s.b(x) if isinstance(x, torch.Tensor) else s.c(x)


def by_is_tensor(s: Any, x: Tensor) -> Tensor:
    return s.b(x) if torch.is_tensor(x) else s.c(x)


def part_in_place(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    h[:, 0] += s.b(x)[:, 1]
    h[:, 1:3] *= 0.5
    return s.c(F.relu(h))


def single_row_of_weights(s: Any, x: Tensor) -> Tensor:
    return torch.stack([F.linear(s.a(x), s.b.weight[0]), F.linear(x, s.c.weight[1])], 1)


def size_arithmetic(s: Any, x: Tensor) -> Tensor:
    count = x.size(0)
    twice = count
    twice *= 2
    return s.a(x).reshape(count, -1) + s.b(x).reshape(twice // 2, 4)


RIGHT: dict[str, Forward] = {
    each.__name__: each
    for each in (
        into_full,
        into_zeros,
        by_type,
        by_is_tensor,
        part_in_place,
        single_row_of_weights,
        size_arithmetic,
    )
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("batch", [2, 4])
def test_is_right(name: str, batch: int) -> None:
    model = net(RIGHT[name])
    x = torch.randn(batch, 4, dtype=torch.float64, requires_grad=True)
    out = model(x)
    weight = torch.randn_like(out)
    (gradient,) = torch.autograd.grad((out * weight).sum(), x)
    seen: list[Tensor] = []

    def seed(output: Tensor) -> Tensor:
        seen.append(output)
        return output * weight

    relevance = lrp0(model)(x.detach(), seed=seed)
    torch.testing.assert_close(seen[0], out.detach(), rtol=1e-12, atol=1e-12)
    assert_relevance(relevance, (x * gradient).detach(), 1e-9)


def set_data(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    h.data = s.b(x)
    return h


def built_from_parameters(s: Any, x: Tensor) -> Tensor:
    weight = sum(p.sum() for p in s.a._parameters.values())
    return s.b(x) * weight


REFUSED: dict[str, Forward] = {
    "data assigned": set_data,
    "constant from parameters": built_from_parameters,
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str) -> None:
    with pytest.raises((CaptureError, UnsupportedOpError)):
        lrp0(net(REFUSED[name]))


def test_unknown_in_place_operation_changes_no_value_that_relevance_reads() -> None:
    """The same model with and without the in-place call, under a rule that reads the activation again."""

    def forward(s: Any, x: Tensor, in_place: bool) -> Tensor:
        g = s.a(x)
        y = s.b(g)
        g = g.exp_() if in_place else g.exp()
        return y * torch.sigmoid(g)

    x = torch.randn(2, 4, dtype=torch.float64)
    explained = [
        fxlrp.compile(net(functools.partial(forward, in_place=how)), rules=[("linear", rules.ZPlus())])(x)
        for how in (True, False)
    ]
    assert_relevance(explained[0], explained[1], 1e-12)


def test_promoted_types_come_back() -> None:
    """A float32 input scaled by a float64 buffer: the relevance is float32 again."""
    model = Net(lambda s, x: (s.a(x) * s.wide).float()).eval()
    x = torch.randn(2, 4)
    relevance = fxlrp.compile(model)(x)
    assert relevance.dtype == torch.float32


@pytest.mark.parametrize("preset", ["epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1"])
def test_half_precision_is_finite_where_contributions_have_one_sign(preset: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Flatten(1), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        model.get_parameter("0.weight").abs_()
    x = torch.rand(1, 1, 4, 4)
    expected = fxlrp.compile(model, rules=preset)(x, target=0)
    half = fxlrp.compile(copy.deepcopy(model).half(), rules=preset)(x.half(), target=0)
    assert bool(half.isfinite().all())
    torch.testing.assert_close(half.float(), expected, rtol=0.02, atol=float(expected.abs().max()) * 0.02)


def test_bias_option_fits_only_what_has_a_bias() -> None:
    with pytest.raises(RuleError, match="add"):
        fxlrp.compile(net(lambda s, x: s.a(x) + 1), rules=[("add", rules.Epsilon(bias=False))])


def test_mask_input_is_a_constant_once_an_example_says_so() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.linear(x * mask)

    model, x, mask = Masked().eval(), torch.randn(2, 4), torch.tensor([[True, False, True, True]] * 2)
    explain = fxlrp.compile(model, rules=presets.epsilon(0.0), example_inputs=(x, mask))
    torch.testing.assert_close(explain(x, mask, target=1), x * mask * model.linear.weight[1])
    with pytest.raises(InputError, match=r"mask.*constant"):
        explain(x, mask.float(), target=1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["bilinear", "trilinear", *repeated("linear", "bicubic")])
@pytest.mark.parametrize(
    "options", [{"scale_factor": 2.0}, *repeated({"size": 7}, {"scale_factor": 1.5, "align_corners": True})]
)
def test_smooth_interpolation_compiles_for_any_size(mode: str, options: dict[str, Any]) -> None:
    dims = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}[mode]

    class Up(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(x, mode=mode, **options)

    torch.compiler.reset()  # all explainers share the code whose recompilations are counted
    explain = lrp0(Up().eval())
    compiled = torch.compile(explain, fullgraph=True, backend="aot_eager")
    for size in (4, 6):
        x = torch.randn(2, 2, *(size,) * dims, dtype=torch.float64, requires_grad=True)
        out = Up()(x)
        weight = torch.randn_like(out)
        (gradient,) = torch.autograd.grad((out * weight).sum(), x)
        seed = (out * weight).detach()
        assert_relevance(explain(x.detach(), seed=seed), (x * gradient).detach(), 1e-9)
        assert_relevance(compiled(x.detach(), seed=seed), (x * gradient).detach(), 1e-9)


def test_wrong_example_inputs_are_refused() -> None:
    with pytest.raises(InputError, match="example"):
        fxlrp.compile(nn.Linear(4, 3).eval(), example_inputs=torch.randn(2, 5))


def test_empty_batch() -> None:
    assert fxlrp.compile(nn.Linear(4, 3).eval())(torch.randn(0, 4)).shape == (0, 4)


def test_uninitialized_parameters_are_refused() -> None:
    with pytest.raises(InputError, match="weight"):
        fxlrp.compile(nn.LazyLinear(3).eval())


def test_missing_rule_parameter() -> None:
    with pytest.raises(RuleError, match="low and high"):
        rules.ZBox()  # type: ignore[call-arg]


def test_bounds_for_other_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(1)).eval()
    with pytest.raises(RuleError, match="2 channels"):
        fxlrp.compile(model, presets.epsilon_gamma_box(low=(0, 0), high=(1, 1)))(torch.rand(1, 3, 4, 4))


def test_table_of_a_model_whose_sizes_depend_on_values() -> None:
    explain = lrp0(net(lambda s, x: s.a(x)[x[:, 0] > -100.0]))
    explain(torch.randn(3, 4, dtype=torch.float64))
    assert "linear" in str(explain)


def test_a_users_function_does_not_stand_for_torchs_of_the_same_name() -> None:
    @fxlrp.rule_for(softplus)
    def softplus_relevance(x: Tensor, *, out: Tensor, relevance: Tensor) -> Tensor:
        return relevance

    model = net(lambda s, x: s.b(F.softplus(softplus(s.a(x)))))
    x = torch.randn(2, 4, dtype=torch.float64)
    seen: list[Tensor] = []

    def seed(output: Tensor) -> Tensor:
        seen.append(output)
        return output

    fxlrp.compile(model, extensions=[softplus_relevance])(x, seed=seed)
    torch.testing.assert_close(seen[0], model(x).detach())


def softplus(x: Tensor) -> Tensor:
    return 2 * x


def test_errors_are_of_the_packages_own_types() -> None:
    for model in (nn.LSTM(4, 4), nn.TransformerEncoderLayer(4, 1), nn.AdaptiveLogSoftmaxWithLoss(4, 6, [2])):
        with pytest.raises(FxlrpError):
            fxlrp.compile(model.eval(), capture="symbolic")


@pytest.mark.parametrize("capture", ["auto", "symbolic", "export"])
@pytest.mark.parametrize(
    "rounded",
    [
        lambda x: x.to("cpu", torch.int64).to(torch.float64),
        lambda x: (2 * x.long() + 1).double(),
        lambda x: x + 0.1 * x.long().double(),
    ],
)
def test_relevance_does_not_pass_a_cast_to_integers(rounded: Any, capture: Any) -> None:
    model = net(lambda s, x: s.b(rounded(s.a(x))))
    for examples in (None, torch.randn(2, 4).double()) if capture != "export" else (torch.randn(2, 4).double(),):
        with pytest.raises(UnsupportedOpError, match=r"operation (to|long)\b"):
            fxlrp.compile(model, capture=capture, example_inputs=examples)


@pytest.mark.parametrize("capture", ["symbolic", "export"])
def test_integers_made_of_an_input_may_select_and_mask(capture: Any) -> None:
    def selected(s: Any, x: Tensor) -> Tensor:
        y = s.a(x)
        first = y[torch.arange(y.shape[0]), (x[:, 0].abs() * 0).long()]
        return s.b(y * (y.long() > -5).double()) + first[:, None]

    model, x = net(selected), torch.randn(2, 4).double()
    explain = fxlrp.compile(model, presets.epsilon(0.0), capture=capture, example_inputs=x)
    (expected,) = gradient_times_input(model, x, select=lambda y: y[:, 0].sum())
    torch.testing.assert_close(explain(x, target=0), expected)


def test_instance_norm_without_a_batch_dimension_is_refused() -> None:
    explain = lrp0(nn.InstanceNorm2d(4).eval())
    assert explain(torch.randn(2, 4, 5, 4)).shape == (2, 4, 5, 4)
    with pytest.raises(InputError, match="InstanceNorm2d"):
        explain(torch.randn(4, 5, 4))


def test_weights_that_are_untied_later_are_followed() -> None:
    def untied(model: nn.Sequential) -> nn.Sequential:
        torch.manual_seed(1)
        model[2].weight = nn.Parameter(torch.randn(4, 4))
        return model

    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    model[2].weight = model[0].weight
    explain, x = lrp0(model), torch.randn(2, 4)
    tied = explain(x, target=0)
    x_grad = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(untied(model)(x_grad)[:, 0].sum(), x_grad)
    expected = x * gradient
    assert not torch.allclose(tied, expected)
    torch.testing.assert_close(explain(x, target=0), expected, rtol=1e-4, atol=1e-5)


class TwoNamed(NamedTuple):
    logits: Tensor
    hidden: Tensor


@pytest.mark.parametrize("output", ["logits", 0])
def test_an_output_in_a_named_tuple(output: Any) -> None:
    model, x = net(lambda s, x: TwoNamed(s.b(s.a(x)), s.a(x))), torch.randn(2, 4).double()  # type: ignore[arg-type, return-value]
    (expected,) = gradient_times_input(lambda x: model(x).logits, x)
    torch.testing.assert_close(lrp0(model, output=output, capture="symbolic")(x), expected)


def test_a_model_of_optional_arguments_is_captured_at_the_first_call() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
            out: Tensor = self.a(x if y is None else 2 * y)
            return out

    model, x = Optional().eval(), torch.randn(2, 4)
    explain = lrp0(model)
    (expected,) = gradient_times_input(lambda y: model(y=y), x)
    torch.testing.assert_close(explain(y=x), expected)
