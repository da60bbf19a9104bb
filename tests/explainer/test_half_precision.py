"""Half precision: finite for every preset, and as close to single precision as its own forward pass allows."""

import copy

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import zoo
from fxlrp.demo.digits import DigitNet, load_digits, trained
from fxlrp.passes.fold_batch_norm import folded_bias, folded_weight
from helpers import repeated

HALVES = [torch.bfloat16, torch.float16]
PRESETS = {
    "epsilon": fxlrp.presets.epsilon(),
    "epsilon_plus": fxlrp.presets.epsilon_plus(),
    "epsilon_plus_flat": fxlrp.presets.epsilon_plus_flat(),
    "epsilon_gamma_box": fxlrp.presets.epsilon_gamma_box(low=-3.0, high=3.0),
    "epsilon_alpha2_beta1": fxlrp.presets.epsilon_alpha2_beta1(),
    "epsilon_alpha2_beta1_flat": fxlrp.presets.epsilon_alpha2_beta1_flat(),
}


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation over each sample's elements, averaged over the samples."""
    a, b = (each.detach().double().flatten(1) for each in (a, b))
    a, b = (each - each.mean(1, keepdim=True) for each in (a, b))
    return float(torch.nn.functional.cosine_similarity(a, b).mean())


def gradient_times_input(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    explained = model(x).gather(1, target.unsqueeze(1)).sum()
    return x * torch.autograd.grad(explained, x)[0]


@pytest.mark.parametrize("half", [torch.bfloat16, *repeated(torch.float16)], ids=str)
@pytest.mark.slow
@pytest.mark.parametrize("case", [*repeated(("resnet50", 8, 64)), ("vgg16", 2, 32)], ids=lambda case: case[0])
def test_random_networks(case: tuple[str, int, int], half: torch.dtype) -> None:
    """On a random net half precision keeps little of a gradient; what LRP keeps is measured against that.

    LRP-epsilon is gradient x input but for epsilon, so it loses what that loses; the two differ by chance only. The
    other rules add up terms of one sign, and lose next to nothing.
    """
    name, batch, size = case
    model, x = zoo.calibrated(name, batch=batch, size=size)
    model, x = model.float(), x.float()
    target = model(x).argmax(1)
    in_half, x_half = copy.deepcopy(model).to(half), x.to(half)
    floor = correlation(gradient_times_input(in_half, x_half, target), gradient_times_input(model, x, target))
    for preset, rules in PRESETS.items():
        relevance = fxlrp.compile(in_half, rules)(x_half, target=target)
        assert relevance.dtype == half
        assert relevance.isfinite().all(), preset
        found = correlation(relevance, fxlrp.compile(model, rules)(x, target=target))
        assert found > (floor - 0.05 if preset == "epsilon" else max(floor, 0.98)), (preset, found, floor)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["default", *repeated("attnlrp", "epsilon", "cplrp", "epsilon_plus_flat")])
def test_transformer_encoder(preset: str) -> None:
    """Twelve layers in bfloat16: as close to single precision as gradient x input is."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, activation="gelu")
            self.encoder = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
            self.head = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(x).mean(1))

    torch.manual_seed(0)
    model, x = Encoder().eval(), torch.randn(4, 16, 64)
    in_half, x_half = copy.deepcopy(model).bfloat16(), x.bfloat16()
    target = torch.full((4,), 3)
    floor = correlation(gradient_times_input(in_half, x_half, target), gradient_times_input(model, x, target))
    relevance = fxlrp.compile(in_half, preset, example_inputs=x_half)(x_half, target=target)
    assert relevance.dtype == torch.bfloat16 and relevance.isfinite().all()
    found = correlation(relevance, fxlrp.compile(model, preset, example_inputs=x)(x, target=target))
    assert floor > 0.9995 and found > floor - 5e-5, (found, floor)


@pytest.fixture(scope="module")
def digit_net(tmp_path_factory: pytest.TempPathFactory) -> DigitNet:
    return trained(load_digits(), epochs=3, cache=tmp_path_factory.mktemp("cache"), progress=False)[0]


@pytest.mark.slow
@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_trained_network(digit_net: DigitNet, preset: str, half: torch.dtype) -> None:
    images, labels = load_digits()[2:]
    images, labels = images[:64], labels[:64]
    single = fxlrp.compile(digit_net, PRESETS[preset])(images, target=labels)
    relevance = fxlrp.compile(copy.deepcopy(digit_net).to(half), PRESETS[preset])(images.to(half), target=labels)
    assert relevance.isfinite().all()
    assert correlation(relevance, single) > 0.99


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_batch_norm_is_folded_in_single_precision(half: torch.dtype) -> None:
    """Folded parameters are rounded once: to the number of half precision that is nearest to the exact one."""
    torch.manual_seed(0)
    weight, scale, shift, mean = torch.randn(64, 8, 3, 3), torch.rand(64), torch.randn(64), torch.randn(64)
    parameters = [each.to(half) for each in (weight, scale, shift, mean, torch.rand(64) + 0.5)]
    weight, scale, shift, mean, variance = (each.double() for each in parameters)
    factor = scale / torch.sqrt(variance + 1e-5)
    found = folded_weight(parameters[0], parameters[1], parameters[4], eps=1e-5)
    assert torch.equal(found, (weight * factor.reshape(-1, 1, 1, 1)).to(half))
    found = folded_bias(None, parameters[1], parameters[2], parameters[3], parameters[4], eps=1e-5)
    assert torch.equal(found, (shift - mean * factor).to(half))


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_dead_units(preset: str, half: torch.dtype) -> None:
    """Where no term of a sum is there, nothing is divided by what half precision rounds to zero."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    with torch.no_grad():
        model.get_parameter("2.weight")[::2] = -model.get_parameter("2.weight")[::2].abs()
        model.get_parameter("2.bias")[::2] = 0
        model.get_parameter("0.bias")[::3] = -10
    x = torch.rand(2, 3, 8, 8)
    x[:, :, :4] = 0
    assert fxlrp.compile(model.to(half).eval(), PRESETS[preset])(x.to(half)).isfinite().all()


def test_stabilizer_that_half_precision_cannot_hold() -> None:
    """An epsilon that rounds to zero counts as zero: LRP-0 does not divide by zero."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).half().eval()
    with torch.no_grad():
        model.get_parameter("0.bias")[:4] = -100
    tiny = fxlrp.presets.epsilon(epsilon=1e-12)
    x = torch.rand(2, 4).half()
    relevance = fxlrp.compile(model, tiny)(x)
    assert relevance.isfinite().all()
    torch.testing.assert_close(relevance, fxlrp.compile(model, fxlrp.presets.epsilon(epsilon=0.0))(x))
