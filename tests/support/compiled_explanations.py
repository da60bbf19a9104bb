"""Explainers under ``torch.compile`` in a process of their own: ``python -m compiled_explanations --help``.

Prints, as JSON, the key of each in the cache of AOTAutograd, or with ``--compile`` what the caches of Inductor counted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch
import torch._functorch._aot_autograd.autograd_cache as autograd_cache
from torch import Tensor, nn
from torch._dynamo.utils import counters

import fxlrp


class Halved(nn.Module):
    """Has steps that are derived, and a function with a user-defined rule."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(half(torch.cumsum(self.first(x), 1)))
        return result


def half(x: Tensor) -> Tensor:
    return x / 2


@fxlrp.rule_for(half)
def half_relevance(x: Tensor, *, relevance: Tensor) -> Tensor:
    return relevance * torch.sign(x).abs()


def convolutional() -> tuple[nn.Module, Tensor]:
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(1), nn.Linear(72, 5))
    return nn.Sequential(*layers), torch.rand(2, 3, 8, 8)


def transformer() -> tuple[nn.Module, Tensor]:
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(encoder, nn.Flatten(), nn.Linear(80, 4)), torch.rand(2, 5, 16)


def halved() -> tuple[nn.Module, Tensor]:
    return Halved(), torch.rand(2, 8)


def dense() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.rand(2, 4)


def deep() -> tuple[nn.Module, Tensor]:
    layers = (layer for _ in range(4) for layer in (nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU()))
    return nn.Sequential(*layers), torch.rand(2, 8)


REGIONS = fxlrp.Optimizations(nest_regions=True)
CASES: dict[str, tuple[Callable[[], tuple[nn.Module, Tensor]], dict[str, Any], dict[str, Any]]] = {
    "dense": (dense, {}, {"target": 1}),
    "convolutional": (convolutional, {"rules": "epsilon_plus_flat"}, {"target": torch.tensor([1, 2])}),
    "questions": (convolutional, {}, {"target": fxlrp.targets.each([0, 1, 2])}),
    "places": (convolutional, {"at": ["0", "input"]}, {}),
    "exported": (convolutional, {"capture": "export"}, {}),
    "attention": (transformer, {"rules": "attnlrp"}, {"target": 1}),
    "attention_regions": (transformer, {"rules": "attnlrp", "optimize": REGIONS}, {"target": 1}),
    "regions": (deep, {"optimize": REGIONS}, {"target": 1}),
    "derived": (halved, {"extensions": [half_relevance]}, {"target": 1}),
}


class _KeyIsKnown(BaseException):
    """PyTorch takes an Exception for a bypass of the cache, and compiles."""


def explained(name: str, seed: int) -> tuple[fxlrp.Explainer, Tensor, dict[str, Any]]:
    torch._dynamo.reset()
    make, options, call = CASES[name]
    torch.manual_seed(seed)
    model, x = make()
    explain = fxlrp.compile(model.eval(), example_inputs=x, **options)
    explain(x, **call)
    return explain, x, call


def key(name: str, seed: int) -> list[str]:
    """The key of a compiled explanation, and fingerprints of the explainer; an explanation that has no key raises."""
    explain, x, call = explained(name, seed)
    found: list[str] = []
    original = autograd_cache.autograd_cache_key

    def stop(*args: Any, **kwargs: Any) -> Any:
        found.append(original(*args, **kwargs)[0])
        raise _KeyIsKnown

    autograd_cache.autograd_cache_key = stop
    try:
        with torch.no_grad():
            torch.compile(explain, fullgraph=True)(x, **call)
    except _KeyIsKnown:
        pass
    finally:
        autograd_cache.autograd_cache_key = original
    return [*found, explain.digest(), hashlib.sha256(explain.code.encode()).hexdigest()]


def compiled(name: str, seed: int) -> dict[str, Any]:
    """What the caches counted, and the largest difference from the explanation without ``torch.compile``."""
    explain, x, call = explained(name, seed)
    counters.clear()
    with torch.no_grad():
        fast = torch.compile(explain, fullgraph=True)(x, **call)
    plain = explain(x, **call)
    counted = {**counters["aot_autograd"], **counters["inductor"]}
    return {
        "counted": {kind: count for kind, count in counted.items() if "cache" in kind},
        "difference": float((fast - plain).abs().max() / plain.abs().max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=CASES)
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--compile", action="store_true", help="with Inductor")
    parser.add_argument("--save", help="the file to which the artifacts of the caches are written")
    parser.add_argument("--load", help="a file of artifacts, which are read before")
    options = parser.parse_args()
    if options.load:
        with open(options.load, "rb") as file:
            torch.compiler.load_cache_artifacts(file.read())
    found = {name: (compiled if options.compile else key)(name, options.seed) for name in options.names}
    if options.save:
        saved = torch.compiler.save_cache_artifacts()
        assert saved is not None
        with open(options.save, "wb") as file:
            file.write(saved[0])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
