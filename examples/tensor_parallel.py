"""What a language model on several devices answers, and why: its weights are divided, and so is its explanation.

Run it from the repository, here with two processes on the CPU:

    torchrun --standalone --nproc-per-node 2 examples/tensor_parallel.py

The model is parallelized as for inference, by torch.distributed.tensor.parallel, and compiled afterwards. Every process
prints the same relevance as one device alone would compute, here next to what the devices had to tell each other.
"""

import copy
import os
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import fxlrp

WIDTH, HEADS, HIDDEN, WORDS, LAYERS = 64, 4, 128, 100, 4
Result = TypeVar("Result")


class Attention(nn.Module):
    """Causal self-attention. The number of heads follows from the size, so that it may be that of one device."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        heads = (layer(x).unflatten(-1, (-1, WIDTH // HEADS)) for layer in (self.query, self.key, self.value))
        query, key, value = (each.transpose(1, 2) for each in heads)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        result: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return result


class GatedMLP(nn.Module):
    """That of Llama."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return result


class Layer(nn.Module):
    """Norms before attention and MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.attention, self.mlp = Attention(), GatedMLP()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x))
        result: Tensor = x + self.mlp(self.norm_2(x))
        return result


class LanguageModel(nn.Module):
    """A causal language model with random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm, self.head = nn.Embedding(WORDS, WIDTH), nn.RMSNorm(WIDTH), nn.Linear(WIDTH, WORDS)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def parallelize(model: LanguageModel, mesh: DeviceMesh) -> None:
    """Divide the heads of attention and the features of MLPs, as Megatron does."""
    to_parts = ("attention.query", "attention.key", "attention.value", "mlp.gate", "mlp.up")
    to_sums = ("attention.output", "mlp.down")
    for layer in model.layers:
        plan = {**{path: ColwiseParallel() for path in to_parts}, **{path: RowwiseParallel() for path in to_sums}}
        parallelize_module(layer, mesh, plan)


def counted(run: Callable[[], Result]) -> tuple[Result, str]:
    """The result of a call, and the collectives that it took."""
    mode = CommDebugMode()
    with mode:
        result = run()
    counts = {str(kind).rpartition(".")[-1]: count for kind, count in mode.get_comm_counts().items() if count}
    return result, ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "none"


def main() -> None:
    """Explain the model on all devices, and on one."""
    distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    torch.manual_seed(0)
    model = LanguageModel().double().eval()
    ids = torch.randint(WORDS, (1, 8))
    alone = fxlrp.compile(copy.deepcopy(model), "attnlrp")(ids)

    parallelize(model, mesh)
    explain = fxlrp.compile(model, "attnlrp")
    explain(ids)
    _, of_prediction = counted(lambda: model(ids))
    relevance, of_explanation = counted(lambda: explain(ids))

    if distributed.get_rank() == 0:
        print(f"{distributed.get_world_size()} devices, {LAYERS} layers")
        print("relevance of tokens:", " ".join(f"{each:.4f}" for each in relevance[0].tolist()))
        difference = (relevance - alone).abs().max() / alone.abs().max()
        print("as on one device:", "yes" if difference < 1e-6 else f"no, {difference:.1e} apart")
        print("collectives of a prediction:", of_prediction)
        print("collectives of an explanation:", of_explanation)
    distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
