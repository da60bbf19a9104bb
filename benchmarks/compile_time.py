"""The time of ``fxlrp.compile`` beside that of ``torch.export.export``, which it contains for these models.

``python -m benchmarks.compile_time`` prints a table in Markdown: CPU seconds, one thread, the median of interleaved
runs after one that is not counted. The language models need ``pip install transformers``.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

import fxlrp
from fxlrp.extras import import_torchvision

REPEATS = 3
# transformers imports it as well.
torchvision = import_torchvision()


class Case(NamedTuple):
    """A model with its input, by the name of the argument, and the options of ``fxlrp.compile``."""

    model: nn.Module
    inputs: dict[str, torch.Tensor]
    options: dict[str, Any]


def llama(layers: int) -> Case:
    """A narrow Llama with random weights: the time depends on the number of operations."""
    transformers: Any = importlib.import_module("transformers")
    config = transformers.LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    return Case(model, {"input_ids": torch.randint(0, 128, (2, 12))}, {"rules": "attnlrp", "output": "logits"})


def vit(layers: int) -> Case:
    """A narrow vision transformer, captured with ``torch.export`` as well."""
    widths = {"image_size": 32, "patch_size": 8, "hidden_dim": 64, "mlp_dim": 128}
    model = torchvision.models.VisionTransformer(num_layers=layers, num_heads=4, **widths).eval()
    return Case(model, {"x": torch.rand(2, 3, 32, 32)}, {"capture": "export"})


CASES: dict[str, Callable[[], Case]] = {
    "Llama, 4 layers": lambda: llama(4),
    "Llama, 16 layers": lambda: llama(16),
    "vision transformer, 4 layers": lambda: vit(4),
    "vision transformer, 24 layers": lambda: vit(24),
}


def export(case: Case) -> None:
    """Export the model with the sizes open that ``fxlrp.compile`` leaves open."""
    open_dims = {
        name: dict.fromkeys(range(value.dim()) if value.dim() <= 3 else (0,), torch.export.Dim.AUTO)
        for name, value in case.inputs.items()
    }
    with torch.no_grad():
        torch.export.export(case.model, (), case.inputs, dynamic_shapes=open_dims, strict=False)


def compiled(case: Case) -> None:
    """Compile the explanation of the model."""
    fxlrp.compile(case.model, example_inputs=case.inputs, **case.options)


def seconds(run: Callable[[Case], None], case: Case) -> float:
    """The CPU time of a run."""
    start = time.process_time()
    run(case)
    return time.process_time() - start


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| model | `torch.export` | `fxlrp.compile` |\n| --- | --- | --- |")
    for name, make in CASES.items():
        case = make()
        runs = [[seconds(run, case) for run in (export, compiled)] for _ in range(REPEATS + 1)][1:]
        alone, whole = map(statistics.median, zip(*runs, strict=True))
        print(f"| {name} | {alone:.2f} s | {whole:.2f} s |", flush=True)


if __name__ == "__main__":
    main()
