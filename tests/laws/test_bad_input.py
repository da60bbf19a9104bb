"""Every bad input has an error of fxlrp's own that says what is wrong."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
import zoo
from fxlrp import presets, rules
from fxlrp.errors import CaptureError, FxlrpError, InputError, RuleError, UnsupportedOpError
from helpers import assert_names_line
from law_models import residual

HERE = Path(__file__)


def test_training_mode() -> None:
    model, _ = residual()
    with pytest.raises(CaptureError, match=r"eval\(\)"):
        fxlrp.compile(model.train())


def test_one_module_in_training_mode() -> None:
    model, _ = residual()
    model.get_submodule("bn2").train()
    with pytest.raises(CaptureError, match="bn2"):
        fxlrp.compile(model)


def test_control_flow_on_values() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.linear(x)
            if x.sum() > 0:  # here: control flow
                x = -x
            return x

    explain = fxlrp.compile(Branches().eval())  # the other front end may follow it, at the first call
    with pytest.raises(CaptureError) as caught:
        explain(torch.rand(2, 4))
    assert_names_line(str(caught.value), HERE, "control flow")
    assert "torch.export cannot follow" in str(caught.value)


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (5, "5"),
        (-6, "-6"),
        (torch.tensor([0, 5]), "out of range"),
        (torch.tensor([-6, 0]), "out of range"),
        (torch.tensor([0, 1, 2]), "3"),
        (torch.tensor([[0, 1]]), "1, 2"),
        (torch.tensor([0.0, 1.0]), "float32"),
        (torch.tensor([True, False]), "bool"),
        ((0, 1), "target"),
        (1.5, "1.5"),
        ("cat", "cat"),
    ],
    ids=repr,
)
def test_target(target: Any, named: str) -> None:
    model, x = residual()
    explain = fxlrp.compile(model)
    with pytest.raises(InputError, match="target") as caught:
        explain(x, target=target)
    assert named in str(caught.value)


@pytest.mark.parametrize("target", [(4, 0, 0), (0, 0, 8), (0, 0), 3], ids=repr)
def test_target_of_an_output_with_several_dimensions(target: Any) -> None:
    model, (x,) = zoo.small_net("output_per_pixel")
    with pytest.raises(InputError, match="target"):
        fxlrp.compile(model)(x, target=target)


@pytest.mark.parametrize(
    "seed",
    [
        torch.ones(2, 4, dtype=torch.float64),
        torch.ones(5, dtype=torch.float64),
        torch.ones(1, 5, dtype=torch.float64),
        lambda output: output[:, :3],
        lambda output: output.sum(1, keepdim=True),
        "largest",
    ],
    ids=["2x4", "5", "1x5", "function_2x3", "function_2x1", "str"],
)
def test_seed(seed: Any) -> None:
    model, x = residual()
    explain = fxlrp.compile(model)
    with pytest.raises(InputError, match="seed"):
        explain(x, seed=seed)


def test_seed_and_target_together() -> None:
    model, x = residual()
    explain = fxlrp.compile(model)
    with pytest.raises(InputError, match=r"seed.*target|target.*seed"):
        explain(x, seed=torch.ones(2, 5, dtype=torch.float64), target=1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex128], ids=str)
def test_input_that_is_not_floating_point(dtype: torch.dtype) -> None:
    model, x = residual()
    explain = fxlrp.compile(model)
    with pytest.raises(InputError, match=str(dtype).removeprefix("torch.")):
        explain((x * 10).to(dtype))


def test_input_on_another_device() -> None:
    model, x = residual()
    explain = fxlrp.compile(model)
    with pytest.raises(InputError, match="meta") as caught:
        explain(x.to("meta"))
    assert "cpu" in str(caught.value)


def test_input_that_is_no_tensor() -> None:
    model, x = residual()
    explain = fxlrp.compile(model)
    with pytest.raises(InputError, match="list"):
        explain(x.tolist())


@pytest.mark.parametrize("count", [0, 2])
def test_wrong_number_of_inputs(count: int) -> None:
    model, x = residual()
    explain = fxlrp.compile(model)
    with pytest.raises(InputError, match="input"):
        explain(*[x] * count)


def test_output_that_is_no_tensor() -> None:
    class Dictionary(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": x.flatten(1)}

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.flatten(1), x

    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> None:
            return None

    for module, named in ((Dictionary(), "dict"), (Pair(), "tuple"), (Nothing(), "None")):
        with pytest.raises(CaptureError, match=named):
            fxlrp.compile(module.eval())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["conv2.weight", "head.bias", "bn3.running_var"])
def test_parameter_that_is_not_finite(name: str, value: float) -> None:
    model, x = residual()
    model.state_dict()[name].view(-1)[1] = value
    with pytest.raises((InputError, CaptureError), match=re.escape(name)):
        fxlrp.compile(model)(x)


def test_unknown_preset() -> None:
    model, _ = residual()
    with pytest.raises(RuleError, match="epsilon_pluss") as caught:
        fxlrp.compile(model, rules="epsilon_pluss")
    assert "epsilon_plus_flat" in str(caught.value)  # and which there are


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: rules.Epsilon(eps=1e-3), "eps"),  # type: ignore[call-arg]
        (lambda: rules.Gamma(gama=0.1), "gama"),  # type: ignore[call-arg]
        (lambda: rules.ZBox(lo=0.0, high=1.0), "lo"),  # type: ignore[call-arg]
        (lambda: presets.epsilon_plus(epsilom=1e-3), "epsilom"),  # type: ignore[call-arg]
        (lambda: rules.AlphaBeta(alpha=2.0, beta=0.5), "alpha"),
        (lambda: rules.AlphaBeta(alpha=0.0, beta=-1.0), "beta"),
        (lambda: rules.Epsilon(epsilon=-1.0), "epsilon"),
        (lambda: rules.Gamma(gamma=-0.5), "gamma"),
        (lambda: rules.ZBox(low=1.0, high=-1.0), "low"),
        (lambda: rules.Only(operand=-1), "operand"),
    ],
    ids=[
        "Epsilon_eps",
        "Gamma_gama",
        "ZBox_lo",
        "epsilon_plus_epsilom",
        "AlphaBeta_2_0.5",
        "AlphaBeta_0_-1",
        "negative_epsilon",
        "negative_gamma",
        "empty_box",
        "negative_operand",
    ],
)
def test_rule_parameter(make: Callable[[], Any], named: str) -> None:
    with pytest.raises(RuleError, match=named):
        make()


@pytest.mark.parametrize(
    ("selector", "named"),
    [("layer9.*", r"layer9\.\*"), (nn.Conv3d, "Conv3d"), ("conv3d", "conv3d"), ("cnov2d", "cnov2d")],
    ids=["glob", "class", "operation", "misspelt"],
)
def test_pair_that_matches_nothing(selector: Any, named: str) -> None:
    model, _ = residual()
    with pytest.raises(RuleError, match=named):
        fxlrp.compile(model, rules=[("conv2d", rules.Gamma(0.1)), (selector, rules.Epsilon())])


def test_predicate_that_matches_nothing() -> None:
    model, _ = residual()

    def has_no_such_name(node: torch.fx.Node) -> bool:
        return node.name == "no such name"

    with pytest.raises(RuleError, match="has_no_such_name"):
        fxlrp.compile(model, rules=[(has_no_such_name, rules.Epsilon())])


def test_rule_that_does_not_fit_the_operation() -> None:
    model, _ = residual()
    with pytest.raises(RuleError, match=r"SignalTakeAll.*conv|conv.*SignalTakeAll"):
        fxlrp.compile(model, rules=[("conv1", rules.SignalTakeAll())])


@pytest.mark.parametrize("bad", [42, [("conv2d",)], [(3.5, rules.Epsilon())], [("conv2d", "epsilon")]], ids=repr)
def test_rules_of_a_wrong_type(bad: Any) -> None:
    model, _ = residual()
    with pytest.raises(RuleError):
        fxlrp.compile(model, rules=bad)


def test_dropout_that_is_always_on() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.linear(x), 0.5, training=True)  # here: dropout

    with pytest.raises((CaptureError, UnsupportedOpError), match="dropout") as caught:
        fxlrp.compile(Noisy().eval())
    assert_names_line(str(caught.value), HERE, "dropout")


def test_batch_statistics_in_eval_mode() -> None:
    """Without running statistics BatchNorm mixes the samples of a batch: none is explained alone."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()).eval()
    with pytest.raises((CaptureError, UnsupportedOpError), match="statistics"):
        fxlrp.compile(model)


def test_model_that_is_no_module() -> None:
    with pytest.raises(FxlrpError):
        fxlrp.compile(lambda x: x)  # type: ignore[arg-type]


def test_errors_are_fxlrps_own() -> None:
    for error in (CaptureError, UnsupportedOpError, RuleError, InputError):
        assert issubclass(error, FxlrpError)


def test_switching_the_explainer_does_not_switch_the_model() -> None:
    model, x = residual()
    explain = fxlrp.compile(model)
    before = explain(x)
    nn.Sequential(explain).train()
    assert not any(module.training for module in model.modules())
    torch.testing.assert_close(explain(x), before, rtol=0, atol=0)
    model.train()
    explain.eval()
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(explain(x), before, rtol=0, atol=0)
