"""How long it takes to compile: prints a table, asserts nothing.

Run it as ``python benchmarks/compile_time.py [MODEL ...]``. Absolute times are those of the machine it runs on.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from tabulate import tabulate

import fxlrp
from fxlrp.extras import import_torchvision

MODELS = ("resnet18", "resnet50", "vgg16", "densenet121", "efficientnet_b0", "convnext_tiny")


def seconds(model: torch.nn.Module, rules: str, repeats: int) -> list[float]:
    """The time of each of ``repeats`` compilations."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        fxlrp.compile(model, rules=rules)
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    """Compile each model several times and print how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--rules", default="epsilon_plus_flat")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torchvision = import_torchvision()
    rows = []
    for name in options.models:
        times = seconds(torchvision.models.get_model(name, weights=None).eval(), options.rules, options.repeats)
        rows.append((name, times[0], statistics.median(times), max(times)))
    print(tabulate(rows, headers=("model", "first (s)", "median (s)", "slowest (s)"), floatfmt=".2f"))
    print(f"{options.rules}, torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
