"""ATen's backward kernels, decomposed into what runtimes have."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

import fxlrp
from fxlrp import deploy
from fxlrp.deploy import decompositions


def geometries() -> list[dict[str, Any]]:
    found = []
    for dims, transposed in itertools.product((1, 2, 3), (False, True)):
        for stride, padding, dilation, groups in ((1, 0, 1, 1), (2, 1, 1, 1), (3, 2, 2, 2), (2, 0, 3, 2), (4, 1, 1, 1)):
            found.append(
                dict(dims=dims, transposed=transposed, stride=stride, padding=padding, dilation=dilation, groups=groups)
            )
    return found


def convolution(g: dict[str, Any], x: Tensor, weight: Tensor) -> Tensor:
    n = g["dims"]
    names = ("stride", "padding", "dilation")
    stride, padding, dilation = ([g[name]] * n for name in names)
    beyond = [g["stride"] - 1] * n if g["transposed"] else [0] * n
    result: Tensor = torch.ops.aten.convolution.default(
        x, weight, None, stride, padding, dilation, g["transposed"], beyond, g["groups"]
    )
    return result


def transposed_by(function: Callable[..., Any], g: dict[str, Any], r: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    n = g["dims"]
    beyond = [g["stride"] - 1] * n if g["transposed"] else [0] * n
    shape = ([g["stride"]] * n, [g["padding"]] * n, [g["dilation"]] * n, g["transposed"], beyond, g["groups"])
    result: Tensor = function(r, x, weight, None, *shape, (True, False, False))[0]
    return result


@pytest.mark.parametrize("g", geometries(), ids=lambda g: "-".join(map(str, g.values())))
def test_convolution_backward(g: dict[str, Any]) -> None:
    torch.manual_seed(0)
    kernel = (3, 2, 4)[: g["dims"]]
    weight = torch.randn(4, 6 // g["groups"], *kernel, dtype=torch.float64)
    channels = 4 if g["transposed"] else 6
    # Every size that leaves another rest behind the last window.
    for size in range(10, 15):
        x = torch.randn(2, channels, *(size, size + 1, size)[: g["dims"]], dtype=torch.float64, requires_grad=True)
        out = convolution(g, x, weight)
        r = torch.randn_like(out)
        (expected,) = torch.autograd.grad(out, x, r)
        got = transposed_by(decompositions.convolution_backward, g, r, x.detach(), weight)
        torch.testing.assert_close(got, expected)


@pytest.mark.slow
@pytest.mark.parametrize("g", geometries(), ids=lambda g: "-".join(map(str, g.values())))
def test_convolution_backward_of_open_sizes(g: dict[str, Any]) -> None:
    """Where the output padding is not a number."""

    class Both(nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            out = convolution(g, x, weight)
            return transposed_by(decompositions.convolution_backward, g, torch.sin(out), x, weight)

    torch.manual_seed(0)
    weight = torch.randn(4, 6 // g["groups"], *(3, 2, 4)[: g["dims"]], dtype=torch.float64)
    channels = 4 if g["transposed"] else 6
    x = torch.randn(2, channels, *(16, 17, 16)[: g["dims"]], dtype=torch.float64)
    dims = {dim: Dim.DYNAMIC(min=14, max=20) for dim in range(2, x.dim())}
    module = torch.export.export(Both(), (x, weight), dynamic_shapes=(dims, None)).module()
    for size in range(14, 19):
        x = torch.randn(2, channels, *(size, size + 1, size)[: g["dims"]], dtype=torch.float64, requires_grad=True)
        out = convolution(g, x, weight)
        (expected,) = torch.autograd.grad(out, x, torch.sin(out).detach())
        torch.testing.assert_close(module(x.detach(), weight), expected)


def test_gradients_of_weights_are_left_to_aten() -> None:
    arguments = ([0], [1], [0], [1], False, [0], 1, (True, True, False))
    x = torch.randn(1, 2, 5)
    assert decompositions.convolution_backward(x, x, torch.randn(2, 2, 1), *arguments) is NotImplemented


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "average": lambda x: F.avg_pool2d(x, 2),
    "overlapping": lambda x: F.avg_pool2d(x, (3, 2), stride=(2, 1), padding=1),
    "not counting": lambda x: F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False),
    "ceil": lambda x: F.avg_pool2d(x, 3, stride=2, ceil_mode=True),
    "ceil padded": lambda x: F.avg_pool2d(x, 3, stride=2, padding=1, ceil_mode=True),
    "ceil not counting": lambda x: F.avg_pool2d(x, 4, 3, padding=2, ceil_mode=True, count_include_pad=False),
    "divisor": lambda x: F.avg_pool2d(x, 3, stride=2, divisor_override=5),
    "gaps": lambda x: F.avg_pool2d(x, 2, stride=3),
    "average 3d": lambda x: F.avg_pool3d(x[:, None], 2, stride=(1, 2, 2), padding=1, ceil_mode=True),
    "adaptive uneven": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "adaptive larger": lambda x: F.adaptive_avg_pool2d(x, (13, 7)),
    "adaptive 3d": lambda x: F.adaptive_avg_pool3d(x, (2, 3, 5)),
    "max": lambda x: F.max_pool2d(x, 2),
    "max overlapping": lambda x: F.max_pool2d(x, 3, stride=2, padding=1, dilation=2),
    "max ceil": lambda x: F.max_pool2d(x, 3, stride=2, ceil_mode=True),
    "max 3d": lambda x: F.max_pool3d(x, 2, stride=1),
    "adaptive max": lambda x: F.adaptive_max_pool2d(x, (3, 4)),
    "adaptive max 3d": lambda x: F.adaptive_max_pool3d(x, (2, 3, 4)),
    "nearest 1d": lambda x: F.interpolate(x.flatten(2), 70),
    "nearest": lambda x: F.interpolate(x, scale_factor=(1.7, 0.6)),
    "nearest 3d": lambda x: F.interpolate(x[:, None], (3, 5, 12)),
    "nearest exact": lambda x: F.interpolate(x, (13, 7), mode="nearest-exact"),
    "linear": lambda x: F.interpolate(x.flatten(2), scale_factor=0.4, mode="linear"),
    "bilinear": lambda x: F.interpolate(x, (13, 7), mode="bilinear"),
    "bilinear scaled": lambda x: F.interpolate(x, scale_factor=(2.3, 0.7), mode="bilinear"),
    "bilinear aligned": lambda x: F.interpolate(x, (13, 1), mode="bilinear", align_corners=True),
    "bilinear smooth": lambda x: F.interpolate(x, (4, 5), mode="bilinear", antialias=True),
    "trilinear": lambda x: F.interpolate(x[:, None], (3, 5, 12), mode="trilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, (13, 7), mode="bicubic"),
    "bicubic smooth": lambda x: F.interpolate(x, (4, 5), mode="bicubic", antialias=True),
}


class Recorded(torch.utils._python_dispatch.TorchDispatchMode):
    """Runs decompositions in place of what autograd calls, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        decompose = decompositions.KERNELS.get(func)
        self.count += decompose is not None
        return (decompose or func)(*args, **(kwargs or {}))


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (13, 7), (None, 2)])
def test_adaptive_average(size: Any) -> None:
    x = torch.randn(2, 3, 9, 10, dtype=torch.float64)
    decompose = decompositions.ADAPTIVE[F.adaptive_avg_pool2d]
    torch.testing.assert_close(decompose(x, size), F.adaptive_avg_pool2d(x, size))


@pytest.mark.parametrize("name", POOLS)
def test_pooling_backward(name: str) -> None:
    torch.manual_seed(0)
    for batch, size in ((1, 9), (2, 10), (3, 11)):
        x = torch.randn(batch, 4, size, size + 1, dtype=torch.float64, requires_grad=True)
        out = POOLS[name](x)
        r = torch.randn_like(out)
        (expected,) = torch.autograd.grad(out, x, r, retain_graph=True)
        with Recorded() as recorded:
            (got,) = torch.autograd.grad(out, x, r)
        assert recorded.count == 1
        torch.testing.assert_close(got, expected)
        got.mul_(2)  # a later step may write into its memory
        torch.testing.assert_close(got, 2 * expected)


@pytest.mark.parametrize("count", [1, 3])
def test_adaptive_average_of_open_sizes(count: int) -> None:
    """Where the size is a quotient, of which PyTorch proves little."""

    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = F.max_pool2d(x, 2)
            out = decompositions.adaptive_avg_pool(x, count, dims=2)
            return out, decompositions.adaptive_avg_pool_backward(torch.sin(out), x, dims=2).mul_(2)

    def images(height: int, width: int) -> Tensor:
        return torch.randn(2, 3, height, width, dtype=torch.float64)

    torch.manual_seed(0)
    sizes = {2: Dim("height", min=4, max=64), 3: Dim("width", min=4, max=64)}
    program = torch.export.export(Both(), (images(12, 14),), dynamic_shapes=(sizes,), strict=False).module()
    for x in (images(12, 14), images(7, 31), images(5, 9)):
        pooled = F.max_pool2d(x, 2).requires_grad_()
        out = F.adaptive_avg_pool2d(pooled, count)
        (expected,) = torch.autograd.grad(out, pooled, torch.sin(out.detach()))
        torch.testing.assert_close(program(x), (out.detach(), 2 * expected))
        torch.testing.assert_close(Both()(x), (out.detach(), 2 * expected))


def test_copysign() -> None:
    x, sign = torch.randn(9, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    decompose = decompositions.KERNELS[torch.copysign]
    torch.testing.assert_close(decompose(x, sign), torch.copysign(x, sign))
    in_place = x.clone()
    assert decompositions.KERNELS[Tensor.copysign_](in_place, sign) is in_place
    torch.testing.assert_close(in_place, torch.copysign(x, sign))


PRODUCTS: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "linear": (F.linear, lambda x, weight: F.linear(x, weight)),
    "linear with a bias": (F.linear, lambda x, weight: F.linear(x, weight, weight.sum(1))),
    "torch.matmul": (torch.matmul, lambda x, weight: torch.matmul(x, weight.T)),
    "method": (torch.Tensor.matmul, lambda x, weight: x.matmul(weight.T)),
    "operator": (torch.Tensor.__matmul__, lambda x, weight: x @ weight.T),
}


class Dense(torch.overrides.TorchFunctionMode):
    """Runs the decompositions of products, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        decompose = decompositions.DENSE.get(func)
        made = NotImplemented if decompose is None else decompose(*args, **(kwargs or {}))
        self.count += made is not NotImplemented
        return func(*args, **(kwargs or {})) if made is NotImplemented else made


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_with_a_matrix(name: str) -> None:
    key, call = PRODUCTS[name]
    x, weight = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    assert key in decompositions.DENSE
    for value in (x, x.transpose(0, 1), x[0].T.reshape(4, 3, 5).transpose(0, 1)):
        with Dense() as mode:
            got = call(value, weight)
        assert mode.count == 1
        torch.testing.assert_close(got, call(value, weight))
        got.mul_(2)  # a later step may write into its memory
        torch.testing.assert_close(got, 2 * call(value, weight))
    for value in (x[0, 0], x[0, 0, 0]):
        with Dense() as mode:
            call(value, weight)
        assert mode.count == 0, "one product of matrices needs no decomposition"


def test_packages_have_no_products_with_expanded_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """AOTInductor would keep each weight once for every position: for a vision transformer, 16 GB."""

    class PositionsFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.first(x.transpose(0, 1)).relu()).mean(0)
            return out

    kept: list[Any] = []
    aoti = deploy._WRITERS["aoti"]._replace(write=lambda program, *rest: kept.append(program), require=lambda: None)
    monkeypatch.setattr(deploy, "_WRITERS", {**deploy._WRITERS, "aoti": aoti})
    x = torch.randn(2, 5, 6)
    explain = fxlrp.compile(PositionsFirst().eval(), "epsilon_alpha2_beta1")
    explain.export(tmp_path / "x.pt2", x, format="aoti")
    called = [str(node.target) for node in kept[0].exported.run_decompositions().graph.nodes]
    assert "aten.bmm.default" not in called and {"aten.mm.default", "aten.addmm.default"} & {*called}
    torch.testing.assert_close(kept[0].exported.module()(x, torch.tensor([0, 2])), explain(x, target=[0, 2]))
