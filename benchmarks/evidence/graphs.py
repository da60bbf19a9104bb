"""Random trees of coloured nodes with a motif, which decides the class, in the manner of (Ying et al., 2019).

There the motif is attached to a random graph and the classes differ in its structure; here in its colours too, so that
the number of edges or of nodes of a colour says nothing. The nodes of the motif decide.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.evidence.samples import Samples, integers

NODES = 12
COLOURS = 6  # three of the motif, and three that only other nodes have
PATH = ((0, 1), (1, 2))
CYCLE = ((0, 1), (1, 2), (2, 3), (3, 0))


def centre(count: int, generator: torch.Generator) -> Samples:
    """A path of three nodes of the colours of the motif: which of them is in the middle?"""
    labels = integers(0, 3, (count,), generator)
    order = torch.tensor([[1, 0, 2], [0, 1, 2], [0, 2, 1]])[labels]
    flipped = integers(0, 2, (count, 1), generator).bool()
    return _graphs(PATH, torch.where(flipped, order.flip(1), order), labels, generator)


def alternating(count: int, generator: torch.Generator) -> Samples:
    """A cycle of two nodes of one colour and two of another: do the colours alternate?"""
    labels = integers(0, 2, (count,), generator)
    colours = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]])[labels]
    return _graphs(CYCLE, colours, labels, generator)


def _graphs(motif: tuple[tuple[int, int], ...], colours: Tensor, labels: Tensor, generator: torch.Generator) -> Samples:
    """A motif, and a tree of other nodes that hangs on it; the nodes in random order.

    Beside the colours, the inputs are the edges: both directions, as pairs of nodes.
    """
    count, size = colours.shape
    others = integers(3, COLOURS, (count, NODES - size), generator)
    features = torch.nn.functional.one_hot(torch.cat([colours, others], 1), COLOURS).float()
    parents = (torch.rand(count, NODES - size, generator=generator) * torch.arange(size, NODES)).long()
    tree = torch.stack([parents, torch.arange(size, NODES).expand(count, -1)], -1)
    edges = torch.cat([torch.tensor(motif).expand(count, -1, -1), tree], 1)
    masks = (torch.arange(NODES) < size).expand(count, -1)

    new = torch.rand(count, NODES, generator=generator).argsort(1)  # the new place of each node
    old = new.argsort(1)
    edges = new.gather(1, edges.flatten(1)).view_as(edges)
    features = features.gather(1, old[:, :, None].expand_as(features))
    return Samples((features, torch.cat([edges, edges.flip(-1)], 1)), labels, masks.gather(1, old))
