"""Trains a network until it is good on samples that it is neither trained nor tested on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.evidence.networks import inputs_of
from benchmarks.evidence.samples import Samples

BATCH = 32
RATE = 4e-3
CHECKED_EVERY = 100


def train(
    network: nn.Module, samples: Samples, validation: Samples, steps: int, good: float, generator: torch.Generator
) -> int:
    """Train by AdamW with a rate that falls to zero, until the network is ``good`` on the samples for validation.

    Returns the number of steps, at most ``steps``. The network is in eval mode afterwards.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-3, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / steps)
        batch = samples[torch.randint(0, len(samples), (BATCH,), generator=generator)]
        network.train()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(*inputs_of(network, batch.inputs)), batch.labels)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % CHECKED_EVERY == 0 and right(network, validation).double().mean().item() >= good:
            network.eval()
            return step + 1
    network.eval()
    return steps


def right(network: nn.Module, samples: Samples) -> Tensor:
    """Which samples a network classifies correctly."""
    network.eval()
    with torch.no_grad():
        return network(*inputs_of(network, samples.inputs)).argmax(1) == samples.labels  # type: ignore[no-any-return]
