"""Models on several devices, and what each rank reports of them: relevance beside that of one device, and collectives.

The functions without arguments run on every rank; see ``devices.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

import fxlrp
from fxlrp.errors import FxlrpError

WIDTH, HEADS, HIDDEN, VOCABULARY, LAYERS = 16, 4, 24, 32, 4
PRESETS = ("attnlrp", "cplrp")


class Report(NamedTuple):
    """The largest difference from one device over the largest relevance, and the collectives by kind."""

    difference: float
    collectives: dict[str, int]
    of_gradient: dict[str, int]
    is_dtensor: bool = False


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.output = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            each(x).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)
        return self.output(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2, self.attention, self.mlp = Norm(), Norm(), Attention(), MLP()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm_1(x), *(() if mask is None else (mask,)))
        return x + self.mlp(self.norm_2(x))


class Blocks(nn.Module):
    """From embeddings to the output of the last layer, so that all collectives are those of the layers."""

    def __init__(self, layers: int = LAYERS) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Masked(Blocks):
    """With a mask of the keys that are no padding."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self.layers:
            x = layer(x, keep[:, None, None, :])
        return x


class LanguageModel(nn.Module):
    """From tokens to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.blocks, self.norm = nn.Embedding(VOCABULARY, WIDTH), Blocks(2), Norm()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embedding(ids))))


class ResNet(nn.Module):
    """A residual block between a first convolution and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm_1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.norm_2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)
        for norm in (self.norm_1, self.norm_2):
            norm.running_var, norm.running_mean = torch.rand(8) + 0.5, torch.randn(8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.norm_1(self.first(x))), 2)
        x = torch.relu(x + self.norm_2(self.second(x)))
        return self.head(x.mean((2, 3)))


def blocks_plan() -> dict[str, ParallelStyle]:
    """Megatron's plan for a layer."""
    return {
        **dict.fromkeys(
            ("attention.query", "attention.key", "attention.value", "mlp.gate", "mlp.up"), ColwiseParallel()
        ),
        **dict.fromkeys(("attention.output", "mlp.down"), RowwiseParallel()),
    }


def prepared_plan() -> dict[str, ParallelStyle]:
    """The same plan, in which attention and MLP take one DTensor."""
    prepare = PrepareModuleInput(input_layouts=(Replicate(),), desired_input_layouts=(Replicate(),))
    return {"attention": prepare, "mlp": prepare, **blocks_plan()}


def sequence_plan() -> dict[str, ParallelStyle]:
    """Between attention and MLP, every device has a part of the positions."""
    prepare = PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),))
    to_parts = dict.fromkeys(("attention.output", "mlp.down"), RowwiseParallel(output_layouts=Shard(1)))
    norms = dict.fromkeys(("norm_1", "norm_2"), SequenceParallel())
    return {**norms, "attention": prepare, "mlp": prepare, **blocks_plan(), **to_parts}


ENDS: Mapping[str, dict[str, ParallelStyle]] = {
    "replicated": {
        "embedding": RowwiseParallel(input_layouts=Replicate()),
        "head": ColwiseParallel(output_layouts=Replicate()),
    },
    "sequence": {
        "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "norm": SequenceParallel(),
        "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
    },
    "dtensor": {"head": ColwiseParallel(use_local_output=False)},
}


def parallelized(layers: nn.ModuleList, mesh: DeviceMesh, plan: dict[str, ParallelStyle]) -> None:
    for layer in layers:
        parallelize_module(layer, mesh, plan)


def counted(run: Callable[[], Any]) -> tuple[Any, dict[str, int]]:
    """The result of a call, and its collectives by kind."""
    mode = CommDebugMode()
    with mode:
        result = run()
    return result, {str(kind).rpartition(".")[-1]: count for kind, count in mode.get_comm_counts().items() if count}


def whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def reported(explain: Callable[[], Tensor], expected: Tensor, gradient: Callable[[], Any] | None = None) -> Report:
    explain()  # captures the model, if that needs a call
    relevance, collectives = counted(explain)
    assert expected.abs().max() > 1e-6 and relevance.shape == expected.shape
    difference = (whole(relevance) - expected).abs().max() / expected.abs().max()
    of_gradient = counted(gradient)[1] if gradient is not None else {}
    return Report(float(difference), collectives, of_gradient, isinstance(relevance, DTensor))


def _gradient(model: nn.Module, x: Tensor) -> Callable[[], Any]:
    def run() -> Any:
        leaf = x.detach().requires_grad_()
        model(leaf).sum().backward()
        return leaf.grad

    return run


def mesh_of_all() -> DeviceMesh:
    return init_device_mesh("cpu", (torch.distributed.get_world_size(),))


def report_blocks() -> dict[str, Report]:
    """Attention and MLP of four layers."""
    mesh, found = mesh_of_all(), {}
    torch.manual_seed(0)
    model, x = Blocks().eval().double(), torch.randn(2, 6, WIDTH, dtype=torch.double)
    for name, plan in {"separate": blocks_plan(), "prepared": prepared_plan()}.items():
        divided = copy.deepcopy(model)
        parallelized(divided.layers, mesh, plan)
        for preset in PRESETS:
            explain, expected = fxlrp.compile(divided, preset), fxlrp.compile(model, preset)(x)
            found[f"{name} {preset}"] = reported(partial(explain, x), expected, _gradient(divided, x))
    return found


def report_language_models() -> dict[str, Report]:
    """Whole language models, with embeddings and head on several devices, too."""
    mesh, found = mesh_of_all(), {}
    torch.manual_seed(0)
    model, ids = LanguageModel().eval().double(), torch.randint(VOCABULARY, (2, 8))
    target = (-1, torch.tensor([3, 5]))
    for name, ends in ENDS.items():
        divided = copy.deepcopy(model)
        parallelized(divided.blocks.layers, mesh, sequence_plan() if name == "sequence" else blocks_plan())
        parallelize_module(divided, mesh, ends)
        for preset in PRESETS:
            explain, alone = fxlrp.compile(divided, preset), fxlrp.compile(model, preset)
            chosen = target if preset == "cplrp" else None
            found[f"{name} {preset}"] = reported(partial(explain, ids, target=chosen), alone(ids, target=chosen))
    return found


def report_dtensor_inputs() -> dict[str, Report]:
    """Inputs that are DTensor: every value is one, masks beside them are the same on every device."""
    mesh, found = mesh_of_all(), {}
    torch.manual_seed(0)
    x, keep = torch.randn(4, 6, WIDTH, dtype=torch.double), torch.arange(6) < torch.tensor([6, 4, 5, 3])[:, None]
    models: list[tuple[str, nn.Module, tuple[Tensor, ...]]] = [
        ("blocks", Blocks(2), ()),
        ("masked", Masked(2), (keep,)),
    ]
    for name, model, others in models:
        model = model.eval().double()
        divided = copy.deepcopy(model)
        for layer in divided.get_submodule("layers").children():
            for path, style in blocks_plan().items():
                linear = layer.get_submodule(path)
                dim = int(isinstance(style, RowwiseParallel))
                weight = linear.get_parameter("weight").detach()
                linear.register_parameter("weight", nn.Parameter(distribute_tensor(weight, mesh, [Shard(dim)])))
        for preset in PRESETS:
            expected = fxlrp.compile(model, preset)(x, *others)
            for how, of, placement in (("weights", divided, Replicate()), ("batch", model, Shard(0))):
                given, explain = distribute_tensor(x, mesh, [placement]), fxlrp.compile(of, preset)
                found[f"{name} {how} {preset}"] = reported(partial(explain, given, *others), expected)
    return found


def report_images() -> dict[str, Report]:
    """A batch of images that is divided."""
    mesh, found = mesh_of_all(), {}
    torch.manual_seed(0)
    model, x = ResNet().eval().double(), torch.randn(4, 3, 8, 8, dtype=torch.double)
    given, divided = distribute_tensor(x, mesh, [Shard(0)]), distribute_module(copy.deepcopy(model), mesh)
    target = torch.tensor([0, 3, 1, 2])
    for preset in ("default", "epsilon_gamma_box"):
        rules = fxlrp.presets.epsilon_gamma_box(-3.0, 3.0) if preset == "epsilon_gamma_box" else preset
        explain, expected = fxlrp.compile(divided, rules), fxlrp.compile(model, rules)(x, target=target)
        found[preset] = reported(partial(explain, given, target=target), expected, _gradient(divided, given))
    return found


def report_sharded() -> dict[str, Report]:
    """Parameters that FSDP2 divides; every rank explains samples of its own."""
    mesh, found = mesh_of_all(), {}
    torch.manual_seed(0)
    model, x = Blocks(2).eval().double(), torch.randn(4, 6, WIDTH, dtype=torch.double)
    sharded, own = sharded_by_layers(model, mesh), x.chunk(mesh.size())[mesh.get_rank()]
    for preset in PRESETS:
        explain, expected = fxlrp.compile(sharded, preset), fxlrp.compile(model, preset)(own)
        found[preset] = reported(partial(explain, own), expected, _gradient(sharded, own))
    assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
    return found


def sharded_by_layers(model: Blocks, mesh: DeviceMesh, **options: Any) -> Blocks:
    sharded = copy.deepcopy(model)
    for layer in sharded.layers:
        fully_shard(layer, mesh=mesh, **options)
    fully_shard(sharded, mesh=mesh, **options)
    return sharded


def report_errors() -> dict[str, str]:
    """What calls raise that several devices do not support."""
    mesh, found = mesh_of_all(), {}
    torch.manual_seed(0)
    model, x = Blocks(1).eval(), torch.randn(2, 6, WIDTH)
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    explain = fxlrp.compile(model, "attnlrp")
    sharded = sharded_by_layers(model, mesh, mp_policy=half)
    parallelized(model.layers, mesh, blocks_plan())
    attempts: dict[str, Callable[[], Any]] = {
        "parallelized afterwards": partial(explain, x),
        "relative to other elements": partial(fxlrp.compile, model, [("linear", fxlrp.rules.RelativeEpsilon(0.1))]),
        "channels of a part": partial(fxlrp.compile(model, "attnlrp"), x, only={"layers.0.mlp": [0]}),
        "mixed precision": partial(fxlrp.compile, sharded, "attnlrp"),
        "unlike placement": partial(fxlrp.compile, _Averaged(mesh).eval()),
        "another mesh": partial(fxlrp.compile, _Averaged(mesh, on_mesh=False).eval()),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except FxlrpError as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


class _Averaged(nn.Module):
    """Makes a DTensor of local tensors of which the average counts."""

    def __init__(self, mesh: DeviceMesh, on_mesh: bool = True) -> None:
        super().__init__()
        self.mesh, weight = mesh, torch.ones(WIDTH)
        self.weight = nn.Parameter(distribute_tensor(weight, mesh, [Replicate()]) if on_mesh else weight)

    def forward(self, x: Tensor) -> Tensor:
        return DTensor.from_local(x, self.mesh, [Partial("avg")]).full_tensor()
