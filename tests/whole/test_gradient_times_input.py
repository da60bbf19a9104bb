"""LRP-0 equals gradient x input on nets of linear maps, sums, ReLUs and max pooling, whatever their topology.

The gradient is autograd's, of the model itself. With R = z C, LRP-0 passes C through linear maps and sums as
the gradient is passed, so the identity holds with biases too: they take their share, the rest is the same.
"""

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import zoo
from helpers import as_tuple, lrp0, slow_ones
from oracles import assert_relevance

TOLERANCE = 1e-9

CLASSIFIERS = (
    *slow_ones("vgg11", "resnet50", "densenet121", "inception_v3"),
    "resnet18",
    "googlenet",
    "squeezenet1_1",
    "shufflenet_v2_x0_5",
    "regnet_x_400mf",
)


def assert_equals_gradient(explainer: fxlrp.Explainer, model: nn.Module, *inputs: Tensor, **explained: object) -> None:
    """`explained` is the explainer's `target` or `seed`, and `select` for the gradient."""
    select = explained.pop("select", zoo.largest)
    assert callable(select)
    relevance = explainer(*inputs, **explained)
    relevances = as_tuple(relevance)
    expected = zoo.gradient_times_input(model, *inputs, select=select)
    assert len(relevances) == len(expected)
    for actual, wanted in zip(relevances, expected, strict=True):
        assert wanted.abs().max() > 1e-4  # the oracle is not degenerate
        assert_relevance(actual, wanted, TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_bias_free_classifier(name: str) -> None:
    model, x = zoo.bias_free(name)
    assert_equals_gradient(lrp0(model), model, x)


@pytest.mark.parametrize("name", ["resnet18", *slow_ones("densenet121", "googlenet"), "shufflenet_v2_x0_5"])
def test_classifier_with_biases(name: str) -> None:
    model, x = zoo.calibrated(name, size=64)
    targets = torch.tensor([3, 141])
    assert_equals_gradient(lrp0(model), model, x, target=targets, select=lambda y: y.gather(1, targets[:, None]).sum())


@pytest.mark.parametrize("biases", [False, True], ids=["bias_free", "biases"])
@pytest.mark.parametrize("name", zoo.SMALL_NETS)
def test_small_net(name: str, biases: bool) -> None:
    model, inputs = zoo.small_net(name, biases=biases)
    # As many features as tokens: nothing but an example says that this norm does not run over the features.
    example = inputs if name == "batch_norm_after_linear_of_4_features" else None
    assert_equals_gradient(lrp0(model, example_inputs=example), model, *inputs)


@pytest.mark.parametrize("name", [name for name in zoo.SMALL_NETS if "linear" in name])
def test_example_inputs_bake_no_batch_in(name: str) -> None:
    model, (x,) = zoo.small_net(name, batch=3)
    explain = lrp0(model, example_inputs=x)
    for batch in (3, 2):
        assert_equals_gradient(explain, model, x[:batch])


def test_target_is_one_class_for_all_samples() -> None:
    model, (x,) = zoo.small_net("nested_skips", batch=3)
    for target in range(5):
        assert_equals_gradient(lrp0(model), model, x, target=target, select=lambda y, t=target: y[:, t].sum())


def test_target_is_a_class_for_each_sample() -> None:
    model, (x,) = zoo.small_net("nested_skips", batch=3)
    targets = torch.tensor([4, 0, 2])
    assert_equals_gradient(lrp0(model), model, x, target=targets, select=lambda y: y.gather(1, targets[:, None]).sum())


def test_target_is_an_index_into_several_dimensions() -> None:
    model, (x,) = zoo.small_net("output_per_pixel")
    assert_equals_gradient(lrp0(model), model, x, target=(2, 3, 4), select=lambda y: y[:, 2, 3, 4].sum())


@pytest.mark.parametrize("name", ["nested_skips", "two_inputs", "output_per_pixel"])
def test_seed_tensor(name: str) -> None:
    """A seed S gives the output the factor C = S / y, which is the gradient that autograd starts from."""
    model, inputs = zoo.small_net(name)
    seed = torch.randn(model(*inputs).shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    assert_equals_gradient(lrp0(model), model, *inputs, seed=seed, select=lambda y: (y * (seed / y).detach()).sum())


def test_seed_function_of_the_output() -> None:
    model, (x,) = zoo.small_net("concatenation")
    assert_equals_gradient(
        lrp0(model),
        model,
        x,
        seed=lambda y: y * y.softmax(1),
        select=lambda y: (y * y.softmax(1).detach()).sum(),
    )
