"""The four scenarios of XAI-TRIS in white and in correlated noise, on images of 8x8 pixels (Clark et al., 2024).

A tetromino, T or L, is mixed into noise, and the class is

- ``linear``: which of them is there, each at its own place;
- ``multiplicative``: the same, but it dampens the noise where it is;
- ``rigid``: which of them is there, anywhere and rotated by any multiple of 90 degrees;
- ``xor``: whether both have the same sign, each at its own place.

A pixel decides if it depends on the class: those of both tetrominoes, since where one is absent the other is there, and
in ``rigid`` those of the one that is there. The numbers are those that the authors published for images of this size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.evidence.samples import Samples, integers

SIZE = 8
T = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
L = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
PLACES = ((1, 1), (4, 5))  # of T and L, row and column
SMOOTHING = 3.0
ALPHA = {
    ("linear", "white"): 0.18,
    ("linear", "correlated"): 0.0125,
    ("multiplicative", "white"): 0.7,
    ("multiplicative", "correlated"): 0.1,
    ("rigid", "white"): 0.65,
    ("rigid", "correlated"): 0.2,
    ("xor", "white"): 0.35,
    ("xor", "correlated"): 0.15,
}
SCENARIOS = tuple(dict.fromkeys(scenario for scenario, _ in ALPHA))
NOISES = tuple(dict.fromkeys(noise for _, noise in ALPHA))


def make(scenario: str, noise: str, count: int, generator: torch.Generator) -> Samples:
    """Samples of one scenario in one noise."""
    labels = integers(0, 2, (count,), generator)
    pattern, masks = PATTERNS[scenario](labels, generator)
    background = torch.randn(count, SIZE, SIZE, generator=generator)
    if noise == "correlated":
        smooth = smoothing(SIZE, SMOOTHING)
        background = smooth @ background @ smooth.T
    alpha = ALPHA[scenario, noise]
    if scenario == "multiplicative":
        images = normalized(1 - alpha * pattern) * normalized(background)
    else:
        images = alpha * normalized(pattern) + (1 - alpha) * normalized(background)
    return Samples(((images / images.abs().max())[:, None],), labels, masks)


def normalized(images: Tensor) -> Tensor:
    """All images divided by the norm of all of them."""
    norm: Tensor = images.norm()
    return images / norm


def smoothing(size: int, sigma: float) -> Tensor:
    """The matrix that smooths a row of pixels by a Gaussian, mirrored at the edges and cut off at four sigma."""
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.softmax(-(offsets**2) / (2 * sigma**2), 0)
    matrix = torch.zeros(size, size)
    for row in range(size):
        period = (row + offsets) % (2 * size)
        matrix[row].index_add_(0, torch.minimum(period, 2 * size - 1 - period), weights)
    return matrix


def placed(pattern: Tensor, row: int, column: int) -> Tensor:
    """An image with a pattern at a place."""
    image = torch.zeros(SIZE, SIZE)
    image[row : row + pattern.shape[0], column : column + pattern.shape[1]] = pattern
    return image


def _fixed(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    both = torch.stack([placed(pattern, *place) for pattern, place in zip((T, L), PLACES, strict=True)])
    return both[labels], both.amax(0).bool().expand(len(labels), SIZE, SIZE)


def _rigid(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    turns = integers(0, 4, labels.shape, generator)
    shares = torch.rand(len(labels), 2, generator=generator)
    images = []
    for label, turn, (down, right) in zip(labels.tolist(), turns.tolist(), shares.tolist(), strict=True):
        pattern = torch.rot90((T, L)[label], turn)
        rows, columns = (SIZE - side + 1 for side in pattern.shape)
        images.append(placed(pattern, math.floor(down * rows), math.floor(right * columns)))
    pattern = torch.stack(images)
    return pattern, pattern.bool()


def _xor(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    first = 1.0 - 2.0 * integers(0, 2, labels.shape, generator)
    second = first * (1.0 - 2.0 * labels)
    t, ell = (placed(pattern, *place) for pattern, place in zip((T, L), PLACES, strict=True))
    pattern = first[:, None, None] * t + second[:, None, None] * ell
    return pattern, pattern != 0


PATTERNS = {"linear": _fixed, "multiplicative": _fixed, "rigid": _rigid, "xor": _xor}
