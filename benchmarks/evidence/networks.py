"""Small networks, one class for each family.

The inputs of tokens are embedded by :class:`OfTokens`, so that every method explains the same real vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.evidence import graphs
from benchmarks.evidence.samples import Problem

WIDTH = 32


def dense(features: int, *hidden: int, classes: int) -> nn.Sequential:
    """Dense layers; without hidden ones, a linear network."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(features, width), nn.ReLU()]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, classes))


class OnFlat(nn.Module):
    """Layers on images, and dense layers on all values of what they return."""

    def __init__(self, head: nn.Module, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers) if layers else None
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        if self.layers is not None:
            x = self.layers(x)
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


def _block(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)


def cnn(channels: int, side: int, classes: int) -> OnFlat:
    """Convolutions with BatchNorm, and dense layers on what is left of the image."""
    return OnFlat(
        dense(16 * (side // 4) ** 2, WIDTH, classes=classes),
        *_block(channels, 8),
        nn.ReLU(),
        *_block(8, 16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        *_block(16, 16),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


class Residual(nn.Module):
    """Two convolutions with BatchNorm beside a skip connection."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.first_norm = _block(inputs, outputs, stride)
        self.second, self.second_norm = _block(outputs, outputs)
        self.relu, self.last_relu = nn.ReLU(), nn.ReLU()
        self.skip = None
        if inputs != outputs or stride != 1:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.first_norm(self.first(x)))
        skip = x if self.skip is None else self.skip(x)
        return self.last_relu(self.second_norm(self.second(y)) + skip)  # type: ignore[no-any-return]


def resnet(channels: int, classes: int) -> OnFlat:
    """A stem, two residual blocks and an average over the image."""
    stem = (*_block(channels, 16), nn.ReLU())
    blocks = Residual(16, 16, 1), Residual(16, WIDTH, 2)
    return OnFlat(nn.Linear(WIDTH, classes), *stem, *blocks, nn.AdaptiveAvgPool2d(1))


class Attention(nn.Module):
    """Attention with several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inputs(x).chunk(3, -1)
        mixed = nn.functional.scaled_dot_product_attention(self._heads(q), self._heads(k), self._heads(v))
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """A layer of a transformer, with LayerNorm before attention and before the dense layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.dense = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.dense(x)  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Two layers with learned positions; the mean over all positions is classified."""

    def __init__(self, length: int, classes: int, width: int = WIDTH, heads: int = 4) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.1 * torch.randn(length, width))
        self.layers = nn.Sequential(Layer(width, heads), Layer(width, heads), nn.LayerNorm(width))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x + self.positions).mean(1))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """A transformer on patches, which a convolution embeds."""

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        patch = side // 4
        self.patches = nn.Conv2d(channels, WIDTH, patch, patch)
        self.transformer = Transformer(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.transformer(self.patches(x).flatten(2).transpose(1, 2))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """An LSTM over a sequence; its last state is classified."""

    def __init__(self, features: int, classes: int, width: int = 48) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])  # type: ignore[no-any-return]


class RecurrentOnRows(nn.Module):
    """An LSTM that reads an image row by row."""

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        self.recurrent = Recurrent(channels * side, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrent(x.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class TextCNN(nn.Module):
    """Convolutions over a sequence, and the largest value of each channel."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(features, WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm1d(WIDTH),
            nn.ReLU(),
            nn.Conv1d(WIDTH, WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm1d(WIDTH),
            nn.ReLU(),
            nn.AdaptiveMaxPool1d(1),
        )
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x.transpose(1, 2)).flatten(1))  # type: ignore[no-any-return]


class OfTokens(nn.Module):
    """The vectors of tokens, and a network of vectors."""

    def __init__(self, vocabulary: int, body: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, WIDTH)
        self.body = body

    def forward(self, tokens: Tensor) -> Tensor:
        return self.body(self.embed(tokens))  # type: ignore[no-any-return]


class GraphNetwork(nn.Module):
    """Three rounds of messages along edges, and the mean over all nodes.

    Messages are collected by the adjacency matrix, or by indices.
    """

    def __init__(self, features: int, classes: int, dense: bool) -> None:
        super().__init__()
        widths = (features, WIDTH, WIDTH, WIDTH)
        self.dense = dense
        self.own = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.others = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))
        self.relus = nn.ModuleList(nn.ReLU() for _ in self.own)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        for own, others, relu in zip(self.own, self.others, self.relus, strict=True):
            x = relu(own(x) + self._collect(others(x), edges))
        return self.head(x.mean(1))  # type: ignore[no-any-return]

    def _collect(self, messages: Tensor, edges: Tensor) -> Tensor:
        if self.dense:
            return edges @ messages
        source, target = (edges[..., end, None].expand(-1, -1, messages.shape[-1]) for end in (0, 1))
        return torch.zeros_like(messages).scatter_add(1, target, messages.gather(1, source))


def adjacency(edges: Tensor, nodes: int = graphs.NODES) -> Tensor:
    """The adjacency matrices of graphs, row by target, column by source."""
    matrix = torch.zeros(len(edges), nodes, nodes)
    matrix[torch.arange(len(edges))[:, None], edges[..., 1], edges[..., 0]] = 1.0
    return matrix


def build(name: str, problem: Problem, sample: tuple[Tensor, ...]) -> nn.Module:
    """An untrained network for the inputs of a problem."""
    classes = problem.classes
    if problem.kind == "graph":
        return GraphNetwork(sample[0].shape[-1], classes, dense=name == "dense_graph")
    if problem.kind == "tokens":
        bodies: dict[str, Callable[[], nn.Module]] = {
            "textcnn": lambda: TextCNN(WIDTH, classes),
            "lstm": lambda: Recurrent(WIDTH, classes),
            "transformer": lambda: Transformer(sample[0].shape[1], classes),
        }
        return OfTokens(problem.vocabulary, bodies[name]())
    _, channels, side, _ = sample[0].shape
    networks: dict[str, Callable[[], nn.Module]] = {
        "linear": lambda: OnFlat(dense(channels * side**2, classes=classes)),
        "mlp": lambda: OnFlat(dense(channels * side**2, 64, WIDTH, classes=classes)),
        "cnn": lambda: cnn(channels, side, classes),
        "resnet": lambda: resnet(channels, classes),
        "vit": lambda: VisionTransformer(channels, side, classes),
        "lstm": lambda: RecurrentOnRows(channels, side, classes),
    }
    return networks[name]()


def inputs_of(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs in the form in which a network takes them."""
    if isinstance(network, GraphNetwork) and network.dense:
        return inputs[0], adjacency(inputs[1])
    return inputs


def explained(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network of real values that methods explain, and its inputs."""
    inputs = inputs_of(network, inputs)
    if isinstance(network, OfTokens):
        with torch.no_grad():
            return network.body, (network.embed(inputs[0]),)
    return network, inputs
