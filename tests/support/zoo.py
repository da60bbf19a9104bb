"""The models that the end-to-end tests run on: torchvision's, and small nets that each hold one trap.

Random networks are degenerate as they come: logits vanish, a residual branch may start at zero. So every
model here gets weights of a sensible scale, biases that are not zero, and BatchNorm statistics that fit.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fxlrp.extras import import_torchvision

torchvision = import_torchvision()

M = TypeVar("M", bound=nn.Module)

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

# 32 pixels are enough for the others.
SMALLEST_IMAGE = {"alexnet": 63, "inception_v3": 75, "vit_b_16": 64}

# The images under test are among those calibrated on: at 1x1 pixels a channel has one value per image, and on
# unseen images the misfit of such statistics grows exponentially with depth (1e14 in efficientnet_v2_l).
CALIBRATION_BATCH = 8

# `init_weights` only says which initialisation the builder runs, and without it two of them warn.
BUILDER_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": True, "transform_input": False},
    "inception_v3": {"init_weights": True, "transform_input": False},
    "vit_b_16": {"image_size": 64},
}


def classifiers() -> list[str]:
    """The names in torchvision's registry of classification models."""
    return torchvision.models.list_models(module=torchvision.models)


def images(batch: int, size: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random images as a normalised data set has them: both signs, unit variance."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, size, size, generator=generator, dtype=dtype)


def model_images(name: str, batch: int, *, seed: int = 0, size: int = 32) -> Tensor:
    """Random images of `size`, or of the smallest size that the torchvision model `name` takes."""
    return images(batch, max(size, SMALLEST_IMAGE.get(name, 0)), seed=seed)


class _ParametersOnMeta(TorchFunctionMode):
    """Modules made inside get meta parameters: their own initialisation, long for large ones, costs nothing.

    `torch.device("meta")` would catch every tensor, and RegNet's builder computes its widths with tensors.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return func(*args, **((kwargs or {}) | ({"device": "meta"} if func is torch.empty else {})))


def build(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float64, narrow: bool = True) -> nn.Module:
    """A torchvision classifier with random weights, in eval mode; its BatchNorm still wants `calibrate`."""
    with _ParametersOnMeta():
        model = torchvision.models.get_model(name, weights=None, **BUILDER_OPTIONS.get(name, {}))
        if narrow:
            _narrow(model)
    model = model.to(dtype).to_empty(device="cpu")
    return initialise(model, seed=seed)


def _narrow(model: nn.Module) -> None:
    """Give the dense layers of VGG fewer features: a hundred million weights take most of the time of a test."""
    if isinstance(model, torchvision.models.VGG):
        first, second, last = (module for module in model.classifier if isinstance(module, nn.Linear))
        first.out_features = second.in_features = second.out_features = last.in_features = DENSE_FEATURES
        for each in (first, second, last):
            each.weight = nn.Parameter(torch.empty(each.out_features, each.in_features))
            each.bias = nn.Parameter(torch.empty(each.out_features))


DENSE_FEATURES = 256
POOL = 1_000_003


@functools.cache
def _pool(seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Normal random numbers, twice in a row, and the state of their generator after them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(POOL, generator=generator, dtype=dtype, device="cpu").repeat(2), generator.get_state()


class _Noise:
    """Normal random numbers; large tensors repeat one pool of them, since drawing 600 million takes long."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self.twice, state = _pool(seed, dtype)
        self.generator = torch.Generator().set_state(state)

    def fill(self, tensor: Tensor, scale: float) -> None:
        flat = tensor.view(-1)
        start = POOL - int(torch.randint(POOL, (), generator=self.generator))
        for chunk in flat.split(POOL):
            chunk.copy_(self.twice[start : start + len(chunk)] * scale)


@torch.no_grad()
def initialise(model: M, *, seed: int = 0) -> M:
    """Give every parameter and buffer of `model` a value that keeps signals at unit scale; eval mode."""
    noise = _Noise(seed, next(model.parameters()).dtype)
    known: set[str] = set()
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
        if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)):
            if isinstance(module, TRANSPOSED):
                fan_in = module.weight.numel() // (module.weight.shape[1] * module.groups)
            else:
                fan_in = module.weight[0].numel()
            if "weight" in own:
                noise.fill(module.weight, math.sqrt(2 / fan_in))
        elif isinstance(module, (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm)):
            if module.weight is not None:
                noise.fill(module.weight, 0.1)
                module.weight.abs_().add_(0.5)  # never near zero: a residual branch keeps its say
                module.weight.view(-1)[::3].neg_()  # folded, it swaps the weights' signs
            if isinstance(module, BATCH_NORMS):
                assert module.running_mean is not None and module.running_var is not None
                assert module.num_batches_tracked is not None
                module.running_mean.zero_()
                module.running_var.fill_(1)
                module.num_batches_tracked.zero_()
        elif isinstance(module, nn.PReLU):
            module.weight.fill_(0.25)
        elif isinstance(module, nn.MultiheadAttention):
            noise.fill(module.in_proj_weight, math.sqrt(1 / module.embed_dim))
            noise.fill(module.in_proj_bias, 0.1)
        elif own.keys() <= {"class_token", "pos_embedding"} and own:
            for parameter in own.values():
                noise.fill(parameter, 0.5)
        elif "layer_scale" in own:  # ConvNeXt starts it at 1e-6, which hides every block
            own["layer_scale"].fill_(0.5)
        elif isinstance(module, nn.utils.parametrize.ParametrizationList):
            for parameter in own.values():  # weight_norm's length and direction
                noise.fill(parameter, 0.3)
        elif own and not isinstance(module, Arithmetic):
            raise NotImplementedError(f"{path}: no initialisation for {list(own)} of {type(module).__name__}")
        if own.get("bias") is not None:
            noise.fill(own["bias"], 0.1)
        known.update(f"{path}.{name}" if path else name for name in own)
    assert known == set(model.state_dict())
    return model.eval()


@torch.no_grad()
def calibrate(model: M, *inputs: Tensor, centred: bool = True) -> M:
    """Set every BatchNorm's running statistics to those of its input, layer after layer, in eval mode.

    `centred=False` leaves the means at zero and takes the mean square for the variance, so that a net without
    biases keeps unit scale too. An eval pass, not a training pass: dropout and stochastic depth stay out.
    """

    def measure(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(module, BATCH_NORMS)
        assert module.running_mean is not None and module.running_var is not None
        values = args[0].transpose(0, 1).flatten(1)
        mean = values.mean(1)
        module.running_mean.copy_(mean if centred else torch.zeros_like(mean))
        variance = values.var(1, correction=0) if centred else values.square().mean(1)
        # A channel that is nearly constant on these few images must not blow up on the next ones.
        module.running_var.copy_(variance.clamp(min=0.1 * float(values.square().mean())))

    handles = [m.register_forward_pre_hook(measure) for m in model.modules() if isinstance(m, BATCH_NORMS)]
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return model


@torch.no_grad()
def without_biases(model: M) -> M:
    """Zero every bias and BatchNorm mean: LRP-0 then conserves, and ReLU nets are positively homogeneous."""
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] == "bias":
            parameter.zero_()
    for module in model.modules():
        if isinstance(module, BATCH_NORMS) and module.running_mean is not None:
            module.running_mean.zero_()
    return model


def bias_free(name: str, *, batch: int = 2, size: int = 32) -> tuple[nn.Module, Tensor]:
    """The torchvision model `name` without biases, its scale calibrated, and images for it."""
    data = model_images(name, CALIBRATION_BATCH, size=size)
    return calibrate(without_biases(build(name)), data, centred=False), data[:batch].clone()


def calibrated(name: str, *, batch: int = 2, size: int = 32, narrow: bool = True) -> tuple[nn.Module, Tensor]:
    """The torchvision model `name` with biases and calibrated statistics, and images for it."""
    data = model_images(name, CALIBRATION_BATCH, size=size)
    return calibrate(build(name, narrow=narrow), data), data[:batch].clone()


# Small nets, each with one trap. All are made of linear maps, sums, and activations that are linear on either
# side of zero, so LRP-0 is gradient x input for every one of them, with biases and without.


def _conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


class _Headed(nn.Module):
    """A body on 3x8x8 images that gives 6 channels, average pooling, and a linear head with 5 outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 5)

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Residual(_Headed):
    """The plain case: every BatchNorm folds, and a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 6, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = _conv(6, 6)
        self.bn2 = nn.BatchNorm2d(6)
        self.conv3 = _conv(6, 6, bias=False)
        self.bn3 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)

    def body(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(x)))
        y = self.bn3(self.conv3(y))
        y += x
        return self.dropout(self.relu(y))


class ModuleTwice(_Headed):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 6)
        self.shared = _conv(6, 6)
        self.relu = nn.ReLU()

    def body(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        return self.relu(self.shared(self.relu(self.shared(x))))


class SharedByTwoBranches(_Headed):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 6)
        self.shared = _conv(6, 6)

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return F.relu(self.shared(x) - self.shared(x.flip(3)) * 0.5)


class AddToItself(_Headed):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 6)
        self.conv2 = _conv(6, 6)

    def body(self, x: Tensor) -> Tensor:
        x = self.conv1(x + x)
        x = F.relu(x + x)
        x = self.conv2(x)
        return torch.add(x, x, alpha=2)


class NestedSkips(_Headed):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 6)
        self.convs = nn.ModuleList(_conv(6, 6) for _ in range(4))

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        outer = F.relu(x)
        inner = F.relu(self.convs[0](outer))
        innermost = inner + self.convs[2](F.relu(self.convs[1](inner)))
        y = inner + self.convs[3](innermost)
        return F.relu(outer + y + innermost) + x


class Concatenation(_Headed):
    def __init__(self) -> None:
        super().__init__()
        self.wide = _conv(3, 4)
        self.narrow = _conv(3, 2, kernel=1)
        self.merge = _conv(12, 6)

    def body(self, x: Tensor) -> Tensor:
        narrow = F.relu(self.narrow(x))
        wide = F.relu(self.wide(x))
        return F.relu(self.merge(torch.cat([narrow, wide, narrow, wide], dim=1)))


class UnusedBranch(_Headed):
    def __init__(self) -> None:
        super().__init__()
        self.conv = _conv(3, 6)
        self.auxiliary = _conv(6, 6)
        self.never_called = nn.Linear(7, 7)

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        unused = self.auxiliary(x).square().sum()
        unused = unused + 1
        return x


class FunctionalCalls(_Headed):
    def __init__(self) -> None:
        super().__init__()
        self.conv = _conv(3, 6)
        self.linear = nn.Linear(6 * 3 * 3, 6)

    def body(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.conv.weight, self.conv.bias, stride=1, padding=(1, 1))
        x = F.max_pool2d(torch.relu(x), kernel_size=2, stride=2)
        x = F.adaptive_avg_pool2d(x, (3, 3))
        x = torch.flatten(x, start_dim=1)
        x = F.linear(x, self.linear.weight, bias=self.linear.bias).relu()
        return x.reshape(x.size(0), -1, 1, 1)


class InplaceReLU(_Headed):
    """Nothing uses the results of the in-place calls by name: dropping them as unused changes the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 6)
        self.conv2 = _conv(6, 6)
        self.relu = nn.ReLU(inplace=True)

    def body(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        alias = y
        self.relu(y)
        z = self.conv2(alias)
        F.relu_(z)
        z = z + alias
        w = self.conv1(x)
        w.relu_()
        return z - 0.5 * w + F.relu(self.conv2(w), inplace=True)


class AugmentedAdd(_Headed):
    """`+=` changes a tensor that an alias still names: later uses see the sum, earlier ones do not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 6)
        self.conv2 = _conv(6, 6)
        self.conv3 = _conv(6, 6)

    def body(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        before = self.conv2(F.relu(y))
        alias = y
        y += before
        after = self.conv3(F.relu(alias))
        after.add_(y, alpha=0.5)
        after -= before
        after *= 2
        return F.relu_(after)


class Arithmetic(_Headed):
    offset: Tensor
    gain: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 6)
        self.conv2 = _conv(3, 6)
        self.register_buffer("offset", torch.linspace(-1, 1, 6).reshape(6, 1, 1))
        self.register_buffer("gain", torch.linspace(-1, 2, 6).reshape(6, 1, 1))

    def body(self, x: Tensor) -> Tensor:
        a, b = self.conv1(x), self.conv2(x)
        y = 1.5 * a - b / 3 + self.offset
        y = F.relu(y) * self.gain - torch.mul(a, 0.25)
        y = 0.5 - y
        return torch.sub(-y, b, alpha=0.1) + 2


class Broadcast(_Headed):
    """The smaller operand of a sum reads the input too: its share is summed back to its own shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = _conv(3, 6)
        self.context = _conv(6, 6, kernel=1)
        self.scalar = nn.Linear(6, 1)

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        pooled = F.adaptive_avg_pool2d(x, 1)
        y = self.context(pooled) + x + pooled
        return y - self.scalar(pooled.flatten(1)).reshape(-1, 1, 1, 1)


class Shapes(_Headed):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 8)
        self.conv2 = _conv(8, 6, stride=2)
        self.mix = nn.Linear(8, 8)

    def body(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        x = F.relu(self.conv1(F.pad(x, (1, 0, 2, 1))))[:, :, 2 : height + 2, 1:]
        x = x.view(batch, 2, 4, height, width).transpose(1, 2).contiguous().view(batch, -1, height, width)
        left, right = x.chunk(2, dim=1)
        first, second, rest = torch.split(right, [1, 1, 2], dim=1)
        x = torch.cat([rest, left, first, second], dim=1)
        x = self.mix(x.permute(0, 2, 3, 1)).movedim(-1, 1)
        x = torch.stack([x, x.roll(1, 3), x.flip(2)], dim=0).sum(0)
        x = x + x.mean(dim=1, keepdim=True).expand(-1, 8, -1, -1) + x[:, 3].unsqueeze(1)
        return self.conv2(x.flatten(2).unflatten(2, (height, width)))


class Pooling(_Headed):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 6)
        self.conv2 = _conv(6, 6)
        self.max = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        self.average = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)

    def body(self, x: Tensor) -> Tensor:
        x = self.average(self.max(self.conv1(x)))
        x = F.interpolate(x, scale_factor=2) + F.interpolate(x, scale_factor=2.0, mode="bilinear")
        x = F.avg_pool2d(F.relu(self.conv2(x)), 2, padding=1)
        return x + nn.functional.adaptive_max_pool2d(x, 1)


class LeakyActivations(_Headed):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 6)
        self.conv2 = _conv(6, 6)
        self.leaky = nn.LeakyReLU(0.2, inplace=True)
        self.prelu = nn.PReLU()

    def body(self, x: Tensor) -> Tensor:
        return self.prelu(self.conv2(self.leaky(self.conv1(x)))) + F.leaky_relu(self.conv1(x), 0.5)


class ComputedWeights(_Headed):
    """Weights that the forward pass computes from parameters: by hand, and by a parametrization."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 6)
        self.conv2 = nn.utils.parametrizations.weight_norm(_conv(6, 6))

    def body(self, x: Tensor) -> Tensor:
        weight = self.conv1.weight
        weight = weight - weight.mean((1, 2, 3), keepdim=True)
        weight = 3 * F.normalize(weight.flatten(1), dim=1).view_as(weight)
        return F.relu(self.conv2(F.relu(F.conv2d(x, weight, self.conv1.bias, padding=1))))


class BatchNormAfterSharedConv(_Headed):
    """One convolution, two calls, a BatchNorm behind each: folding one into the weight breaks the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 6)
        self.shared = _conv(6, 6)
        self.bn1 = nn.BatchNorm2d(6)
        self.bn2 = nn.BatchNorm2d(6)

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.bn1(self.shared(x)))
        return F.relu(self.bn2(self.shared(x)))


class BatchNormBesideOtherUses(_Headed):
    """A convolution has other users too, one BatchNorm serves twice, one follows another, one leads."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.conv1 = _conv(3, 6)
        self.conv2 = _conv(6, 6)
        self.conv3 = _conv(6, 6, groups=2, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.bn2 = nn.BatchNorm2d(6)
        self.bn3 = nn.BatchNorm2d(6, affine=False)

    def body(self, x: Tensor) -> Tensor:
        x = self.conv1(self.first(x))
        y = F.relu(self.bn1(x)) + x
        y = F.relu(self.bn1(self.conv2(y)))
        return F.relu(self.bn3(self.bn2(self.conv3(y))))


class BatchNormAfterTransposed(_Headed):
    def __init__(self) -> None:
        super().__init__()
        self.down = _conv(3, 4, stride=2)
        self.up = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.bn = nn.BatchNorm2d(6)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.up(F.relu(self.down(x)))))


class BatchNormAfterLinear(nn.Module):
    """BatchNorm1d normalises dimension 1: Linear's features in 2-D values, but not its features in 3-D ones.

    As many features as tokens make a wrong fold silent.
    """

    def __init__(self, features: int = 7) -> None:
        super().__init__()
        self.tokens = nn.Linear(6, features)
        self.over_tokens = nn.BatchNorm1d(4)
        self.features = nn.Linear(4 * features, 8)
        self.over_features = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.over_tokens(self.tokens(x)))
        x = F.relu(self.over_features(self.features(x.flatten(1))))
        return self.head(x)


class OneDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(2, 6, 3, stride=2, padding=1, padding_mode="circular"),
            nn.BatchNorm1d(6),
            nn.ReLU(inplace=True),
            nn.MaxPool1d(2),
            nn.ConvTranspose1d(6, 4, 3, stride=2),
            nn.ReLU(),
            nn.AvgPool1d(2),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(16, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ThreeDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 4, 3, padding=1)
        self.bn = nn.BatchNorm3d(4)
        self.up = nn.ConvTranspose3d(4, 4, 2, stride=2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.bn(self.conv(x))), 2)
        x = F.adaptive_avg_pool3d(F.relu(self.up(x)), 1)
        return self.head(torch.squeeze(x, -1).squeeze(-1).squeeze(-1))


class TwoInputs(nn.Module):
    """Two inputs of different shapes; the second is also read through the first one's encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(6, 8)
        self.extend = nn.Linear(3, 6)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shifted = F.relu(self.encode(x + 1))
        return self.head(F.relu(self.encode(x)) + F.relu(self.encode(self.extend(y))) + shifted)


class OutputPerPixel(nn.Module):
    """An output with several dimensions, as in segmentation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 6)
        self.conv2 = _conv(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(x)))


IMAGE = (3, 8, 8)

# name -> builder, shape of each input of one sample
SMALL_NETS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "residual": (Residual, (IMAGE,)),
    "module_twice": (ModuleTwice, (IMAGE,)),
    "shared_by_two_branches": (SharedByTwoBranches, (IMAGE,)),
    "add_to_itself": (AddToItself, (IMAGE,)),
    "nested_skips": (NestedSkips, (IMAGE,)),
    "concatenation": (Concatenation, (IMAGE,)),
    "unused_branch": (UnusedBranch, (IMAGE,)),
    "functional_calls": (FunctionalCalls, (IMAGE,)),
    "inplace_relu": (InplaceReLU, (IMAGE,)),
    "augmented_add": (AugmentedAdd, (IMAGE,)),
    "arithmetic": (Arithmetic, (IMAGE,)),
    "broadcast": (Broadcast, (IMAGE,)),
    "shapes": (Shapes, (IMAGE,)),
    "pooling": (Pooling, (IMAGE,)),
    "leaky_activations": (LeakyActivations, (IMAGE,)),
    "computed_weights": (ComputedWeights, (IMAGE,)),
    "batch_norm_after_shared_conv": (BatchNormAfterSharedConv, (IMAGE,)),
    "batch_norm_beside_other_uses": (BatchNormBesideOtherUses, (IMAGE,)),
    "batch_norm_after_transposed": (BatchNormAfterTransposed, (IMAGE,)),
    "batch_norm_after_linear": (BatchNormAfterLinear, ((4, 6),)),
    "batch_norm_after_linear_of_4_features": (lambda: BatchNormAfterLinear(4), ((4, 6),)),
    "one_dimensional": (OneDimensional, ((2, 16),)),
    "three_dimensional": (ThreeDimensional, ((2, 4, 4, 4),)),
    "two_inputs": (TwoInputs, ((6,), (3,))),
    "output_per_pixel": (OutputPerPixel, (IMAGE,)),
}


def small_net(
    name: str, *, biases: bool = True, batch: int = 2, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A net of `SMALL_NETS`, calibrated, and inputs for it."""
    builder, shapes = SMALL_NETS[name]
    model = initialise(builder().to(dtype))
    if not biases:
        without_biases(model)
    generator = torch.Generator().manual_seed(1)
    inputs = tuple(torch.randn(max(batch, 8), *shape, generator=generator, dtype=dtype) for shape in shapes)
    calibrate(model, *inputs, centred=biases)
    return model, tuple(x[:batch].clone() for x in inputs)


# The oracle for them


def largest(output: Tensor) -> Tensor:
    """The sum over samples of each one's largest output."""
    return output.flatten(1).amax(1).sum()


def gradient_times_input(
    model: Callable[..., Tensor], *inputs: Tensor, select: Callable[[Tensor], Tensor] = largest
) -> tuple[Tensor, ...]:
    """The gradient of `select(output)`, a scalar, times the inputs: LRP-0 by autograd."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    gradients = torch.autograd.grad(select(model(*leaves)), leaves)
    return tuple((x * gradient).detach() for x, gradient in zip(inputs, gradients, strict=True))
