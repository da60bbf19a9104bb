"""Images of several objects, one of which decides, in the manner of CLEVR-XAI (Arras et al., 2022).

CLEVR-XAI asks questions about rendered scenes, and the answer depends on the pixels of the objects that a question
means. Here a network is trained for one question, on flat shapes. A pixel decides if it would differ under another
answer: where the question is the shape of an object, that is the square that it fills, since an empty pixel of it tells
shapes apart; where it is the colour, the drawn pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.evidence.samples import Samples, distinct, integers

SIZE = 16
SIDE = 5
GLYPHS = torch.tensor(
    [
        [list(map(float, row)) for row in glyph.split()]
        for glyph in (
            "11111 11111 11111 11111 11111",  # square
            "00100 00100 11111 00100 00100",  # plus
            "11111 10001 10001 10001 11111",  # ring
            "10001 01010 00100 01010 10001",  # cross
        )
    ]
)
COLOURS = torch.tensor([[1.0, 0.1, 0.1], [0.1, 1.0, 0.1], [0.1, 0.1, 1.0], [1.0, 1.0, 0.1]])
CROSS = 3


def shape_of_red(count: int, generator: torch.Generator) -> Samples:
    """What shape is the red object, of three in different colours?"""
    labels = integers(0, len(GLYPHS), (count,), generator)
    shapes = torch.cat([labels[:, None], integers(0, len(GLYPHS), (count, 2), generator)], 1)
    colours = torch.cat([torch.zeros(count, 1).long(), 1 + distinct(3, 2, count, generator)], 1)
    images, boxes, _ = _draw(shapes, colours, generator)
    return Samples((images,), labels, boxes)


def colour_of_cross(count: int, generator: torch.Generator) -> Samples:
    """What colour is the cross, of three objects of different shapes?"""
    labels = integers(0, len(COLOURS), (count,), generator)
    shapes = torch.cat([torch.full((count, 1), CROSS), distinct(3, 2, count, generator)], 1)
    colours = torch.cat([labels[:, None], integers(0, len(COLOURS), (count, 2), generator)], 1)
    images, _, drawn = _draw(shapes, colours, generator)
    return Samples((images,), labels, drawn)


def shape_in_clutter(count: int, generator: torch.Generator) -> Samples:
    """What shape is the object, among single pixels of its colour?"""
    labels = integers(0, len(GLYPHS), (count,), generator)
    colours = integers(0, len(COLOURS), (count, 1), generator)
    images, boxes, _ = _draw(labels[:, None], colours, generator)
    clutter = (torch.rand(count, SIZE, SIZE, generator=generator) < 0.1) & ~boxes
    painted = torch.where(clutter[:, None], COLOURS[colours[:, 0]][:, :, None, None], images)
    return Samples((painted,), labels, boxes)


def shape_of_bright(count: int, generator: torch.Generator) -> Samples:
    """What shape is the bright object, beside one of the same colour that is half as bright?"""
    labels = integers(0, len(GLYPHS), (count,), generator)
    shapes = torch.cat([labels[:, None], integers(0, len(GLYPHS), (count, 1), generator)], 1)
    colours = integers(0, len(COLOURS), (count, 1), generator).expand(count, 2)
    images, boxes, _ = _draw(shapes, colours, generator, brightness=(1.0, 0.5))
    return Samples((images,), labels, boxes)


def _draw(
    shapes: Tensor, colours: Tensor, generator: torch.Generator, brightness: tuple[float, ...] = (1.0, 1.0, 1.0)
) -> tuple[Tensor, Tensor, Tensor]:
    """Images of objects on dark noise, and of the first object the square that it fills and the pixels drawn."""
    count, objects = shapes.shape
    images = 0.2 * torch.rand(count, 1, SIZE, SIZE, generator=generator).expand(count, 3, SIZE, SIZE).contiguous()
    boxes = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
    drawn = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
    corners = places(count, objects, generator)
    for sample in range(count):
        for index in range(objects):
            row, column = corners[sample, index].tolist()
            rows, columns = slice(row, row + SIDE), slice(column, column + SIDE)
            glyph = GLYPHS[shapes[sample, index]].bool()
            paint = brightness[index] * COLOURS[colours[sample, index]][:, None, None]
            images[sample, :, rows, columns] = torch.where(glyph, paint, images[sample, :, rows, columns])
            if index == 0:
                boxes[sample, rows, columns] = True
                drawn[sample, rows, columns] = glyph
    return images, boxes, drawn


def places(count: int, objects: int, generator: torch.Generator) -> Tensor:
    """For each image the corners of objects that do not touch: in different quarters, moved a little."""
    quarters = distinct(4, objects, count, generator)
    half = SIZE // 2
    shift = integers(0, half - SIDE, (count, objects, 2), generator)
    return torch.stack([quarters // 2, quarters % 2], -1) * half + shift
