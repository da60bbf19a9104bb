"""Repeated blocks become functions that ``torch.compile`` compiles once, whatever they are connected to."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxlrp
from detaching import Style, inputs_of, made
from fxlrp import Optimizations
from helpers import repeated, slow_ones
from oracles import assert_relevance, random, randomize

NESTED = Optimizations(nest_regions=True)


class Block(nn.Module):
    """A block of a vision transformer, whose projection is read in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.mixed, self.up, self.down = (nn.Linear(8, n) for n in (24, 8, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.first(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        x = x + self.mixed(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Blocks(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(count)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean(1))
        return logits


X = random(2, 5, 8, seed=1)


def blocks(count: int) -> nn.Module:
    return randomize(Blocks(count)).double().eval()


def compiled(model: nn.Module, inputs: Any = X, **options: Any) -> tuple[fxlrp.Explainer, fxlrp.Explainer]:
    """The explanation with regions, and the one without."""
    nested, plain = (
        fxlrp.compile(model, "attnlrp", example_inputs=inputs, optimize=each, **options) for each in (NESTED, True)
    )
    return nested, plain


def calls_of(graph: fx.Graph) -> list[Any]:
    """The functions of the calls of regions."""
    called = [node.target for node in graph.nodes if node.op == "call_function"]
    return [each for each in called if hasattr(each, "__marked_compile_region_fn__")]


class Captured:
    """A backend of torch.compile that keeps the graph."""

    graph_module: fx.GraphModule

    def __call__(self, graph_module: fx.GraphModule, example_inputs: Any) -> Any:
        self.graph_module = graph_module
        return graph_module.forward

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of operations in the bodies of the regions, each of which is compiled once."""
        read = [node.args[0] for node in self.graph_module.graph.nodes if "invoke_subgraph" in str(node.target)]
        bodies = dict.fromkeys(self.graph_module.get_submodule(str(node.target)) for node in read)
        return tuple(len(body.graph.nodes) for body in bodies if isinstance(body, fx.GraphModule))


def on_compiler(explain: fxlrp.Explainer, *inputs: Tensor, **options: Any) -> tuple[Tensor, Captured]:
    torch._dynamo.reset()
    captured = Captured()
    result = torch.compile(explain, backend=captured, fullgraph=True, **options)(*inputs)
    return result, captured


def test_what_is_compiled_does_not_grow_with_the_number_of_blocks() -> None:
    sizes = []
    for count in (3, 5):
        nested, plain = compiled(blocks(count))
        calls = calls_of(nested.graph_module.graph)
        # The first relevance step, and the last, may differ.
        assert len(set(calls)) == 2 and len(calls) >= 2 * count - 1
        relevance, captured = on_compiler(nested, X)
        assert_relevance(relevance, plain(X), 1e-12)
        assert_relevance(nested(X), plain(X), 1e-12)
        sizes.append(captured.sizes)
    assert sizes[0] == sizes[1] and len(sizes[0]) == 2


@pytest.mark.parametrize(
    "style",
    [
        Style("sdpa", "causal", layers=3),
        *slow_ones(Style("einsum", "additive", layers=3)),
        *repeated(Style("eager", "padding", layers=3), Style("mha", "padding", encoder=True, layers=3)),
    ],
    ids=str,
)
def test_language_models(style: Style) -> None:
    """Views, masks that all blocks read, and parameters that are read in parts."""
    model, inputs = made(style), inputs_of(style)
    nested, plain = compiled(model, inputs)
    assert len(calls_of(nested.graph_module.graph)) >= 4
    # TorchDynamo fails with an assertion of its own on the sizes of an additive mask in a region.
    for dynamic in (False,) if style.mask == "additive" else (False, True):
        relevance, captured = on_compiler(nested, *inputs, dynamic=dynamic)
        # With open sizes, TorchDynamo traces some regions into the graph that calls them.
        assert 1 <= len(captured.sizes) <= 2 if dynamic else len(captured.sizes) == 2
        assert_relevance(relevance, plain(*inputs), 1e-12)


def test_requested_values_stay_outside_of_regions() -> None:
    nested, plain = compiled(blocks(5), at="blocks.2")
    assert_relevance(nested(X, target=1), plain(X, target=1), 1e-12)
    assert_relevance(on_compiler(nested, X)[0], plain(X), 1e-12)


@pytest.mark.slow
def test_blocks_of_other_sizes_are_other_regions() -> None:
    model = nn.Sequential(
        *(layer for width in (4, 4, 4, 6, 6, 6) for layer in (nn.LazyLinear(width), nn.Tanh(), nn.LayerNorm(width)))
    )
    x = random(3, 4)
    model.float()(x.float())
    nested, plain = compiled(randomize(model).double().eval(), x)
    assert_relevance(on_compiler(nested, x)[0], plain(x), 1e-12)


def test_there_are_no_regions_unless_chosen() -> None:
    assert not calls_of(compiled(blocks(4))[1].graph_module.graph)
    assert not calls_of(compiled(blocks(1))[0].graph_module.graph)


def test_programs_with_regions_are_copied_and_exported(tmp_path: Path) -> None:
    nested, plain = compiled(blocks(3))
    expected = plain(X, target=1)
    assert_relevance(copy.deepcopy(nested)(X, target=1), expected, 1e-12)
    nested.export(tmp_path / "explain.pt2", X, target=1)
    assert_relevance(torch.export.load(tmp_path / "explain.pt2").module()(X), expected, 1e-12)


@pytest.mark.slow
def test_inductor() -> None:
    nested, plain = compiled(blocks(3))
    torch._dynamo.reset()
    assert_relevance(torch.compile(nested, fullgraph=True)(X), plain(X), 1e-10)
