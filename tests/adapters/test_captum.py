"""The adapter of captum: against captum's own gradient times input, its metrics, its visualization."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from captum.attr import LRP as TheirLRP
from captum.attr import InputXGradient, LayerGradientXActivation, NoiseTunnel, visualization
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor, nn

import fxlrp
from fxlrp.adapters.captum import LRP, LayerLRP
from fxlrp.errors import InputError
from helpers import LRP0, epsilon_with
from oracles import assert_relevance


def classifier(bias: bool = False) -> nn.Sequential:
    return (
        nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=bias), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5, bias=bias)
        )
        .double()
        .eval()
    )


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 8, 8, dtype=torch.float64)


class Segmentation(nn.Module):
    """Its output has the shape (batch, classes, height, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        result = self.layers(x)
        assert isinstance(result, Tensor)
        return result


# Without biases LRP-0 is gradient times input, for which captum selects the outputs itself.
@pytest.mark.parametrize("target", [3, [1, 4], (2,), torch.tensor(2), torch.tensor([2]), torch.tensor([0, 3])], ids=str)
def test_targets_of_a_classifier_are_those_of_captum(target: Any) -> None:
    model, x = classifier(), images()
    expected = InputXGradient(model).attribute(x.clone().requires_grad_(), target=target).detach()
    assert_relevance(LRP(model, LRP0).attribute(x, target=target), expected, 1e-9)


@pytest.mark.parametrize("target", [(1, 2, 3), [(1, 0, 0), (4, 3, 1)]], ids=str)
def test_targets_of_a_segmentation_are_those_of_captum(target: Any) -> None:
    model, x = Segmentation().double().eval(), images()
    expected = InputXGradient(model).attribute(x.clone().requires_grad_(), target=target).detach()
    assert_relevance(LRP(model, LRP0).attribute(x, target=target), expected, 1e-9)


@pytest.mark.parametrize(
    ("target", "selected"),
    [
        (1, lambda output: output[:, 1]),
        ((1, 2), lambda output: output[:, 1, 2]),
        ([(1, 2), (4, 0)], lambda output: torch.stack([output[0, 1, 2], output[1, 4, 0]])),
    ],
    ids=["class", "row", "each sample"],
)
def test_a_target_with_fewer_indices_explains_the_sum_of_what_captum_selects(target: Any, selected: Any) -> None:
    model, x = Segmentation().double().eval(), images().requires_grad_()
    (gradient,) = torch.autograd.grad(selected(model(x)).sum(), x)
    x = x.detach()
    assert_relevance(LRP(model, LRP0).attribute(x, target=target), gradient * x, 1e-9)


@pytest.mark.parametrize("target", [(-1, 5), (0, 2), [(3, 1), (1, 6)]], ids=str)
def test_targets_of_a_language_model(target: Any) -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 7, bias=False))
    model = model.double().eval()
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    embedded = model[0](ids).detach().requires_grad_()
    output = model[1:](embedded)
    indices = target if isinstance(target, list) else [target] * 2
    (gradient,) = torch.autograd.grad(sum(output[sample][index] for sample, index in enumerate(indices)), embedded)
    relevance = LRP(model, LRP0).attribute(ids, target=target)
    assert_relevance(relevance, (embedded * gradient).sum(-1).detach(), 1e-9)


@pytest.mark.parametrize("shape", [(1,), ()], ids=str)
def test_a_model_with_one_output_needs_no_target(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False)).double().eval()
    if not shape:
        model.append(nn.Flatten(0)).eval()
    x = torch.randn(3, 6, dtype=torch.float64)
    expected = InputXGradient(model).attribute(x.clone().requires_grad_()).detach()
    assert_relevance(LRP(model, LRP0).attribute(x), expected, 1e-9)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "needs a target"),
        ((1, 2), "more indices"),
        ([1], "for 1 samples, but the batch has 2"),
        ([1, 2, 3], "for 3 samples, but the batch has 2"),
        ([(1,), (1, 2)], "must be an integer"),
        (1.5, "must be an integer"),
        (True, "must be an integer"),
        (5, "out of range"),
        (torch.tensor([0.5, 1.0]), "must be an integer"),
        (fxlrp.targets.each([0, 1]), "takes one target"),
    ],
    ids=str,
)
def test_a_target_that_does_not_fit_is_an_error(target: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LRP(classifier()).attribute(images(), target=target)


def test_integers_for_samples_need_one_dimension_of_classes() -> None:
    with pytest.raises(InputError, match="give tuples"):
        LRP(Segmentation().double().eval()).attribute(images(), target=[1, 2])


def test_the_targets_of_fxlrp_work_too() -> None:
    model, x = classifier(), images()
    both = [LRP(model, LRP0).attribute(x, target=target) for target in (1, 3)]
    contrast = LRP(model, LRP0).attribute(x, target=fxlrp.targets.contrast(1, 3))
    assert_relevance(contrast, both[0] - both[1], 1e-9)


def test_lrp_epsilon_is_that_of_captum() -> None:
    model, x = classifier(bias=True), images()
    from captum.attr._utils.lrp_rules import EpsilonRule

    model[3].rule = EpsilonRule(1e-9)
    with pytest.warns(UserWarning, match="required_grads"):
        expected, delta = TheirLRP(model).attribute(x, target=2, return_convergence_delta=True)
    ours = LRP(model, fxlrp.presets.epsilon(1e-9))
    relevance, own_delta = ours.attribute(x, target=2, return_convergence_delta=True)
    assert_relevance(relevance, expected.detach(), 1e-6)
    assert_relevance(own_delta, delta.detach(), 1e-6)
    assert ours.has_convergence_delta() and ours.multiplies_by_inputs


class WithMask(nn.Module):
    """Two inputs, a mask and a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5, bias=False), nn.Linear(4, 5, bias=False)
        self.head = nn.Linear(5, 3, bias=False)

    def forward(self, a: Tensor, b: Tensor, mask: Tensor, doubled: bool = False) -> Tensor:
        hidden = (self.first(a) + self.second(b)).relu() * mask
        result = self.head(hidden * 2 if doubled else hidden)
        assert isinstance(result, Tensor)
        return result


def test_additional_arguments_are_not_explained() -> None:
    model = WithMask().double().eval()
    a, b = torch.randn(2, 6, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    mask = torch.tensor([[1.0, 0, 1, 1, 0], [0, 1, 1, 1, 1]], dtype=torch.float64)
    ours, theirs = LRP(model, LRP0), InputXGradient(model)
    for additional in ((mask,), (mask, True), (mask, False), mask):
        leaves = (a.clone().requires_grad_(), b.clone().requires_grad_())
        expected = theirs.attribute(leaves, target=1, additional_forward_args=additional)
        relevance = ours.attribute((a, b), target=1, additional_forward_args=additional)
        assert isinstance(relevance, tuple) and len(relevance) == 2
        for own, wanted in zip(relevance, expected, strict=True):
            assert_relevance(own, wanted.detach(), 1e-9)
    # The same model with one input: the other one becomes an additional argument.
    alone = ours.attribute(a, target=1, additional_forward_args=(b, mask, True))
    expected = theirs.attribute(a.clone().requires_grad_(), target=1, additional_forward_args=(b, mask, True))
    assert_relevance(alone, expected.detach(), 1e-9)


def test_a_tuple_gives_a_tuple() -> None:
    model, x = classifier(), images()
    (relevance,) = LRP(model, LRP0).attribute((x,), target=1)
    assert_relevance(relevance, LRP(model, LRP0).attribute(x, target=1), 1e-12)


def test_an_explainer_in_place_of_a_model() -> None:
    model, x = classifier(), images()
    explain = fxlrp.compile(model, LRP0, at="1")
    assert_relevance(LRP(explain).attribute(x, target=1), fxlrp.compile(model, LRP0)(x, target=1), 1e-12)
    assert LRP(explain).forward_func is model
    with pytest.raises(InputError, match="an explainer has its rules"):
        LRP(explain, "epsilon")


@pytest.mark.parametrize("name", ["at", "constants", "example_inputs"])
def test_what_follows_from_the_call_cannot_be_given(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} follows from the call"):
        LRP(classifier(), None, **{name: ["x"]})


def test_inputs_are_tensors() -> None:
    with pytest.raises(InputError, match="tuple of tensors"):
        LRP(classifier()).attribute(images().numpy(), target=1)


def test_layers() -> None:
    model, x = classifier(), images()
    expected = LayerGradientXActivation(model, model[1]).attribute(x, target=2).detach()
    for layer in (model[1], "1"):
        relevance, delta = LayerLRP(model, layer, LRP0).attribute(x, target=2, return_convergence_delta=True)
        assert_relevance(relevance, expected, 1e-9)
        assert_relevance(delta, torch.zeros(2, dtype=torch.float64), 1e-9)
    several, deltas = LayerLRP(model, [model[1], "0"], LRP0).attribute(x, target=2, return_convergence_delta=True)
    assert_relevance(several[0], expected, 1e-9)
    assert several[1].shape == expected.shape and len(deltas) == 2
    assert LayerLRP.interpolate(several[0], (8, 8)).shape == (2, 4, 8, 8)


def test_the_delta_of_a_layer_is_what_the_bias_behind_it_absorbed() -> None:
    model, x = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double().eval(), torch.randn(2, 6).double()
    _, delta = LayerLRP(model, "1", LRP0).attribute(x, target=1, return_convergence_delta=True)
    assert isinstance(model[2].bias, Tensor)
    assert_relevance(delta, model[2].bias[1].detach().expand(2), 1e-9)


def test_layers_that_do_not_fit_are_errors() -> None:
    model = classifier()
    with pytest.raises(InputError, match="not a module inside the model"):
        LayerLRP(model, nn.ReLU())
    with pytest.raises(InputError, match="the name of the node"):
        LayerLRP(model, "1").attribute(images(), target=1, attribute_to_layer_input=True)
    with pytest.raises(InputError, match="nothing"):
        LayerLRP(model, "nothing").attribute(images(), target=1)


def test_infidelity_of_a_linear_model_is_zero() -> None:
    model, x = nn.Linear(6, 3, bias=False).double().eval(), torch.randn(2, 6, dtype=torch.float64)

    def perturb(values: Tensor) -> tuple[Tensor, Tensor]:
        # The input is removed where the mask is 1: the output changes by the relevance there.
        mask = (torch.rand_like(values) > 0.5).double()
        return mask, values * (1 - mask)

    relevance = LRP(model, LRP0).attribute(x, target=1)
    exact = infidelity(model, perturb, x, relevance, target=1, n_perturb_samples=20)
    assert_relevance(exact, torch.zeros(2, dtype=torch.float64), 1e-12)
    assert (infidelity(model, perturb, x, -relevance, target=1, n_perturb_samples=20) > 1e-3).all()


def test_sensitivity_is_that_of_gradient_times_input() -> None:
    model, x = classifier(), images()
    noise = 0.05 * torch.rand(10, 3, 8, 8, dtype=torch.float64).repeat(2, 1, 1, 1)

    def perturb(values: Tensor) -> Tensor:
        return values + noise[: len(values)]

    ours = sensitivity_max(LRP(model, LRP0).attribute, x, perturb_func=perturb, target=[1, 4])

    def theirs(values: Any, target: Any) -> Any:
        with torch.enable_grad():
            leaves = tuple(each.requires_grad_() for each in (values if isinstance(values, tuple) else (values,)))
            return tuple(each.detach() for each in InputXGradient(model).attribute(leaves, target=target))

    expected = sensitivity_max(theirs, x, perturb_func=perturb, target=[1, 4])
    assert (expected > 1e-3).all()
    assert_relevance(ours, expected, 1e-9)


def test_noise_tunnel() -> None:
    model = nn.Linear(6, 3, bias=False).double().eval()
    x = torch.randn(2, 6, dtype=torch.float64)
    tunnel = NoiseTunnel(LRP(model, LRP0))
    smooth, delta = tunnel.attribute(
        x, nt_type="smoothgrad", nt_samples=64, stdevs=1e-3, target=1, return_convergence_delta=True
    )
    assert_relevance(smooth, (model.weight[1] * x).detach(), 1e-2)
    assert_relevance(delta, torch.zeros(128, dtype=torch.float64), 1e-9)


def test_visualization(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    relevance = LRP(classifier(), epsilon_with()).attribute(images(1), target=1)
    figure, axes = visualization.visualize_image_attr(
        relevance[0].permute(1, 2, 0).numpy(), method="heat_map", sign="all", use_pyplot=False
    )
    (drawn,) = axes.get_images()
    shown = torch.tensor(drawn.get_array().tolist())
    summed = relevance[0].sum(0).float()
    # captum divides by a quantile and clips.
    assert torch.equal(shown.sign(), summed.sign())
    assert figure is not None and shown.abs().max() <= 1


def test_the_package_itself_does_not_import_captum() -> None:
    import subprocess

    code = "import fxlrp, fxlrp.adapters, sys; print('captum' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_arguments_that_are_equal_but_of_another_type() -> None:
    """The explainer of a call with 1 is not for a call with True or 1.0, which the model may treat differently."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3, bias=False)

        def forward(self, x: Tensor, scale: Any = None, options: Any = None) -> Tensor:
            result = self.layer(x) * (3.0 if scale is True else 1.0) * (options["k"] if options else 1.0)
            assert isinstance(result, Tensor)
            return result

    model, x = Scaled().double().eval(), torch.randn(2, 4, dtype=torch.float64)
    explained = LRP(model, LRP0)
    without_factor = (x * model.layer.weight[1]).detach()
    several: list[tuple[Any, float]] = [(1, 1), (True, 3), (1.0, 1)]
    several += [((None, {"k": 2}), 2), ((None, {"k": 2.0}), 2), ((None, {"k": 3}), 3)]
    for given, factor in [*several, *several]:
        found = explained.attribute(x, target=1, additional_forward_args=given)
        assert_relevance(found, without_factor * factor, 1e-9)


@pytest.mark.parametrize("kind", [nn.ReLU, lambda: nn.Sequential(nn.ReLU())], ids=["an operation", "a container"])
def test_a_layer_that_is_called_twice_has_a_name_for_each_call(kind: Any) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = kind()
            self.first, self.second, self.head = (nn.Linear(4, 4, bias=False) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            result = self.head(self.act(self.second(self.act(self.first(x)))))
            assert isinstance(result, Tensor)
            return result

    model, x = Twice().double().eval(), torch.randn(3, 4, dtype=torch.float64)
    with pytest.raises(InputError, match="called more than once: choose 'act_0', 'act_1'"):
        LayerLRP(model, model.act, LRP0).attribute(x, target=1)
    # captum takes the last call.
    expected = LayerGradientXActivation(model, model.act).attribute(x, target=1).detach()
    assert_relevance(LayerLRP(model, "act_1", LRP0).attribute(x, target=1), expected, 1e-9)
