"""Shapes of equal calls are inferred once, and of calls that only look equal, each by itself."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from fxlrp.shapes import InputSpec, infer_values

COUNTS: list[tuple[int, ...]] = []


def counted(x: Tensor) -> Tensor:
    COUNTS.append(tuple(x.shape))
    return 2 * x


fx.wrap("counted")


class Blocks(nn.Module):
    """Equal blocks, then calls that differ in one property of an argument."""

    def forward(self, x: Tensor) -> tuple[object, ...]:
        for _ in range(5):
            x = counted(x)
        equal = x
        strided = counted(x.transpose(0, 1).contiguous().transpose(0, 1))
        rows, first, same, truth = counted(x[:1]), x[0], x[0:1], x[True]
        wide, whole = x.sum(1, keepdim=True), x.sum(1, keepdim=False)
        return equal, strided, counted(x.double()), rows, first, same, truth, wide, whole, x.mul(1), x.mul(1.0)


def inferred(x: Tensor) -> tuple[dict[str, tuple[tuple[int, ...], torch.dtype]], list[tuple[int, ...]]]:
    COUNTS.clear()
    traced = fx.symbolic_trace(Blocks())
    found = infer_values(traced, traced.graph, [InputSpec.of(x)])
    return {name: (each.shape, each.dtype) for name, each in found.values.items()}, list(COUNTS)


def test_equal_calls_run_once() -> None:
    _, calls = inferred(torch.rand(2, 3))
    assert calls == [(2, 3), (2, 3), (1, 3), (2, 3)]  # the first; other strides; other sizes; another type


class Run(fx.Interpreter):
    """Records the shape and the type of every value."""

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            vars(self).setdefault("found", {})[n.name] = (tuple(value.shape), value.dtype)
        return value


def test_every_call_has_the_shape_and_type_of_its_value() -> None:
    for x in (torch.rand(2, 3), torch.arange(6).reshape(2, 3)):
        found, _ = inferred(x)
        run = Run(fx.symbolic_trace(Blocks()))
        run.run(x)
        assert found == vars(run)["found"]
