"""Every operation that carries relevance has a rule that works."""

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional as F

import fxlrp
from fxlrp import presets
from fxlrp.decomposition import DECOMPOSITIONS
from fxlrp.errors import CaptureError, UnsupportedOpError
from fxlrp.operation import Family
from fxlrp.relevance import fitting_rules, implementation
from fxlrp.vocabulary import CANONICAL
from oracles import One, assert_relevance, random

OPERATIONS = CANONICAL.operations
WITHOUT_RELEVANCE = (Family.NO_RELEVANCE, Family.IDENTITY, Family.COMPOSITE)
# The field has no rule for them: the user chooses one.
WITHOUT_DEFAULT = (Family.MATRIX_FUNCTION, Family.UNKNOWN)
# Their relevance is derived; tests/relevance/test_derived_*.py have their oracles.
DERIVED = (Family.TRANSFORM, Family.SELECTION, Family.FUNCTION, Family.MATRIX_FUNCTION)
CARRYING = {name: op for name, op in OPERATIONS.items() if op.family not in WITHOUT_RELEVANCE}


@pytest.mark.parametrize("name", CARRYING)
def test_the_default_preset_has_a_rule_with_an_emitter(name: str) -> None:
    operation = CARRYING[name]
    if operation.family in WITHOUT_DEFAULT:
        assert presets.default().default(operation.family) is None
        assert fitting_rules(operation) == ["Backpropagation", "Custom", "Gradient"]
        return
    for preset in (presets.default(), presets.epsilon(0.0)):
        rule = preset.default(operation.family)
        assert implementation(operation, rule) is not None  # type: ignore[arg-type]
        assert type(rule).__name__ in fitting_rules(operation)


def test_every_composite_has_a_decomposition() -> None:
    assert {name for name, op in OPERATIONS.items() if op.family is Family.COMPOSITE} <= set(DECOMPOSITIONS)


S = random(2, 4, 6)  # two samples of four channels
IMAGES = random(2, 4, 6, 6)
VOLUMES = random(2, 4, 4, 4, 4)
WEIGHT = random(3, 6, seed=1)
INDEX = torch.tensor([[[3, 0, 0]] * 4] * 2)
MASK = random(4, 6, seed=9) > 0
SQUARE = random(6, 5, seed=2)


def kernel(*shape: int) -> Tensor:
    return random(*shape, seed=7)


def convolved(n: int, x: Tensor) -> Tensor:
    return getattr(F, f"conv{n}d")(x, kernel(2, 4, *(2,) * n), padding=1)


def convolved_back(n: int, x: Tensor) -> Tensor:
    return getattr(F, f"conv_transpose{n}d")(x, kernel(4, 2, *(2,) * n), stride=2)


def pooled(name: str, x: Tensor) -> Tensor:
    return getattr(F, name)(x, 3 if "adaptive" in name else 2)


def functional(name: str) -> Callable[[Tensor], Tensor]:
    return getattr(F, name, None) or getattr(torch, name)


BY_SIZE = {1: S, 2: IMAGES, 3: VOLUMES}

# operation -> how to call it, and on what
CALLS: dict[str, tuple[Callable[[Tensor], Any], Tensor]] = {
    "linear": (lambda x: F.linear(x, WEIGHT), S),
    **{f"conv{n}d": (functools.partial(convolved, n), BY_SIZE[n]) for n in (1, 2, 3)},
    **{
        f"conv_transpose{n}d": (
            functools.partial(convolved_back, n),
            BY_SIZE[n],
        )
        for n in (1, 2, 3)
    },
    "add": (lambda x: x + SQUARE[:, 0], S),
    "sub": (lambda x: SQUARE[:, 0] - x, S),
    "mul": (lambda x: x * 3, S),
    "div": (lambda x: x / SQUARE[:, 0], S),
    "neg": (lambda x: -x, S),
    "matmul": (lambda x: x @ SQUARE, S),
    **{
        name: (functional(name), S)
        for name in (
            "relu relu6 selu silu mish hardswish hardsigmoid logsigmoid softsign tanhshrink tanh sigmoid leaky_relu "
            "elu celu gelu hardtanh softplus softshrink hardshrink rrelu asinh cosh sinh ceil floor trunc frac round "
            "sign sgn sinc angle erfc i0"
        ).split()
    },
    **{
        name: (lambda x, name=name: getattr(torch, name)(x), S / (1 + S.abs()))  # type: ignore[misc]
        for name in "acos asin atanh erfinv".split()
    },
    **{name: (lambda x, name=name: getattr(torch, name)(x), S.abs() + 1.1) for name in "acosh digamma lgamma".split()},  # type: ignore[misc]
    **{
        f"special_{name}": (lambda x, name=name: getattr(torch.special, name)(x), S.abs() + 0.5)  # type: ignore[misc]
        for name in "i0e i1 i1e ndtr log_ndtr erfcx entr".split()
    },
    "special_ndtri": (lambda x: torch.special.ndtri(x), S.sigmoid()),
    "logit": (lambda x: torch.logit(x, eps=0.1), S.sigmoid()),
    "mvlgamma": (lambda x: torch.mvlgamma(x, 2), S.abs() + 1.1),
    "polygamma": (lambda x: torch.polygamma(1, x), S.abs() + 0.5),
    "renorm": (lambda x: torch.renorm(x, 2, 1, 1.0), S),
    "masked_select": (lambda x: torch.masked_select(x, S > 0), S),
    "threshold": (lambda x: F.threshold(x, 0.1, -2.0), S),
    "prelu": (lambda x: F.prelu(x, SQUARE[:4, 0]), S),
    "clamp": (lambda x: torch.clamp(x, -0.5, 0.5), S),
    "clamp_min": (lambda x: torch.clamp_min(x, -0.5), S),
    "clamp_max": (lambda x: torch.clamp_max(x, 0.5), S),
    "softmax": (lambda x: F.softmax(x, dim=1), S),
    **{
        f"{kind}pool{n}d": (
            functools.partial(pooled, f"{kind}pool{n}d"),
            BY_SIZE[n],
        )
        for n in (1, 2, 3)
        for kind in ("max_", "avg_", "adaptive_max_", "adaptive_avg_")
    },
    "amax": (lambda x: x.amax(1), S),
    "mean": (lambda x: x.mean(1), S),
    "sum": (lambda x: x.sum(2, keepdim=True), S),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2), S),
    "batch_norm": (lambda x: F.batch_norm(x, kernel(4), kernel(4).abs() + 1, kernel(4), kernel(4)), S),
    "instance_norm": (lambda x: F.instance_norm(x), S),
    "layer_norm": (lambda x: F.layer_norm(x, (6,)), S),
    "group_norm": (lambda x: F.group_norm(x, 2), S),
    "rms_norm": (lambda x: F.rms_norm(x, (6,)), S),
    "reshape": (lambda x: x.reshape(2, -1), S),
    "reshape_as": (lambda x: x.reshape_as(torch.zeros(2, 24)), S),
    "view_as": (lambda x: x.view_as(torch.zeros(2, 24)), S),
    "flatten": (lambda x: x.flatten(1), S),
    "t": (lambda x: x[:, 0].t(), S),
    "unflatten": (lambda x: x.unflatten(1, (2, 2)), S),
    "squeeze": (lambda x: x[:, :1].squeeze(1), S),
    "unsqueeze": (lambda x: x.unsqueeze(-1), S),
    "permute": (lambda x: x.permute(0, 2, 1), S),
    "transpose": (lambda x: x.transpose(-1, 0), S),
    "movedim": (lambda x: x.movedim(0, 2), S),
    "expand": (lambda x: x[:, :1].expand(2, 5, 6), S),
    "expand_as": (lambda x: x[:, :1].expand_as(x), S),
    "repeat": (lambda x: x.repeat(1, 2, 3), S),
    "tile": (lambda x: x.tile(2), S),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, 1), S),
    "flip": (lambda x: x.flip(1, 2), S),
    "roll": (lambda x: x.roll((1, -2), (1, 2)), S),
    "select": (lambda x: x.select(1, -1), S),
    "narrow": (lambda x: x.narrow(1, -3, 2), S),
    "index_select": (lambda x: x.index_select(2, torch.tensor([5, 0, 5])), S),
    "gather": (lambda x: x.gather(2, INDEX), S),
    "getitem": (lambda x: x[:, [1, 1, 3], 2:], S),
    "pad": (lambda x: F.pad(x, (1, -2, 0, 1)), S),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), IMAGES),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 3), IMAGES),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 2), IMAGES),
    "to": (lambda x: x.to(torch.float64), S),
    "float": (lambda x: x.float().double(), S),
    "double": (lambda x: x.double(), S),
    "half": (lambda x: x.half().double(), S),
    "cpu": (lambda x: x.cpu(), S),
    "bfloat16": (lambda x: x.bfloat16().double(), S),
    "masked_fill": (lambda x: x.masked_fill(MASK, 2.0), S),
    "chunk": (lambda x: x.chunk(4, 2)[1], S),
    "split": (lambda x: x.split([1, 5], 2)[1], S),
    "unbind": (lambda x: x.unbind(1)[-1], S),
    "where": (lambda x: torch.where(MASK, x, SQUARE[0, 0]), S),
    "cat": (lambda x: torch.cat([x, torch.ones(2, 1, 6).double(), x], 1), S),
    "stack": (lambda x: torch.stack([x, 2 * x], -1)[..., 0], S),
    "hstack": (lambda x: torch.hstack([x, x]), S),
    "vstack": (lambda x: torch.vstack([x, x]), S),
    "dstack": (lambda x: torch.dstack([x, x]), S),
    **{name: (functional(name), S) for name in "exp exp2 expm1 square abs sin cos tan atan erf".split()},
    **{name: (functional(name), S.abs() + 0.5) for name in "log log2 log10 log1p sqrt rsqrt reciprocal".split()},
    "pow": (lambda x: x**3, S),
    "safe_softmax": (lambda x: torch._safe_softmax(x, 1), S),
    "log_softmax": (lambda x: F.log_softmax(x, 1), S),
    "einsum": (lambda x: torch.einsum("bij,jk->bki", x, SQUARE), S),
    "vector_norm": (lambda x: torch.linalg.vector_norm(x, dim=(1, 2)), S),
    "cumsum": (lambda x: x.cumsum(1), S),
    "fold": (lambda x: F.fold(x, (2, 4), (2, 2), stride=(1, 1)), random(2, 8, 3)),
    "unfold": (lambda x: F.unfold(x, 3, padding=1, stride=2), IMAGES),
    "windows": (lambda x: x.unfold(-1, 3, 2), S),
    "diagonal": (lambda x: x.diagonal(1, 1, 2), S),
    "topk": (lambda x: x.topk(2, 1)[0], S),
    "sort": (lambda x: x.sort(-1, descending=True)[0], S),
    "tril": (lambda x: x.tril(1), S),
    "triu": (lambda x: x.triu(-1), S),
    "take_along_dim": (lambda x: torch.take_along_dim(x, INDEX[:, :1], 2), S),
    "nan_to_num": (lambda x: torch.nan_to_num(x), S),
    "maximum": (lambda x: torch.maximum(x, SQUARE[:, 0]), S),
    "minimum": (lambda x: torch.minimum(x, SQUARE[:, 0]), S),
    "embedding": (lambda x: F.embedding(x, WEIGHT), torch.tensor([[0, 2, 2], [1, 0, 1]])),
}

# Reached by other tests: it has no call that a model could write, or capture cannot see it in a function of tensors.
DERIVED_PRODUCTS = set("tensordot inner kron cross linalg_cross linalg_multi_dot chain_matmul".split())
UNCALLED = {
    # Only tokens have relevance that passes a cast to integers.
    *("long", "int", "short", "char", "byte", "bool"),
    "expect_dims",
    "setitem",
    "repeat_heads",
    "sum_bags",
    "mask_scores",
    "attention",
    "at_positions",
    "lstm",
    "gru",
    "rnn_tanh",
    "rnn_relu",
    "from_local",
    "redistribute",
    "to_local",
    "var",
    "std",
}


def test_every_operation_that_carries_relevance_is_called_below() -> None:
    derived = {name for name, operation in CARRYING.items() if operation.family in DERIVED or name in DERIVED_PRODUCTS}
    assert CARRYING.keys() - UNCALLED - derived == CALLS.keys()


def linear_share(function: Callable[[Tensor], Tensor], x: Tensor, r: Tensor, out: Tensor) -> Tensor:
    """``x * J^T (R / z)``: LRP-0 of what is affine in ``x``, by autograd."""
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf), leaf, torch.where(out == 0, 0.0, r / out))
    return x * gradient


def moved_back(function: Callable[[Tensor], Tensor], x: Tensor, r: Tensor, out: Tensor) -> Tensor:
    """``J^T R``: relevance follows the elements, and copies add up."""
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf), leaf, r)
    return gradient


def frozen_statistics(function: Callable[[Tensor], Tensor], x: Tensor, r: Tensor, out: Tensor) -> Tensor:
    """Normalization with ``1/sigma`` as a constant: `y = L x + b` is affine in what remains."""
    if function is CALLS["batch_norm"][0]:
        return linear_share(function, x, r, out)
    centred: dict[Any, Callable[[Tensor], Tensor]] = {
        CALLS["layer_norm"][0]: lambda u: u - u.mean(-1, keepdim=True),
        CALLS["instance_norm"][0]: lambda u: u - u.mean(-1, keepdim=True),
        CALLS["group_norm"][0]: lambda u: (u.reshape(2, 2, -1) - u.reshape(2, 2, -1).mean(-1, keepdim=True)).reshape(
            u.shape
        ),
    }
    constant = centred.get(function, lambda u: u)
    scale = (out / constant(x)).detach()
    return linear_share(lambda u: constant(u) * scale, x, r, out)


ORACLES: dict[Family, Callable[..., Tensor]] = {
    Family.LINEAR: linear_share,
    Family.SUM: linear_share,
    Family.MATMUL: linear_share,
    Family.AVERAGE: linear_share,
    Family.NORMALIZATION: frozen_statistics,
    Family.SHAPE: moved_back,
    Family.MAX_POOL: moved_back,
    Family.ACTIVATION: lambda function, x, r, out: r,
    Family.PRODUCT: lambda function, x, r, out: r,
    # x * J^T(R / y), of which x * (R - y * sum(R)) is the form for softmax
    Family.SOFTMAX: linear_share,
    Family.EMBEDDING: lambda function, x, r, out: r.sum(-1),
}


@pytest.mark.parametrize("name", CALLS)
def test_relevance_of_every_operation(name: str) -> None:
    """By the default rules with epsilon 0, against autograd or the formula."""
    function, x = CALLS[name]
    explain = fxlrp.compile(One(function).eval(), presets.epsilon(0.0))
    used = [CANONICAL.operation(node) for node in explain.nodes]
    assert name in [operation.name for operation in used if operation]
    out = function(x)
    r = random(*out.shape, seed=5)
    expected = ORACLES[CARRYING[name].family](function, x, r, out)
    # Casts go through fewer digits on the way.
    tolerance = {"float": 1e-6, "half": 1e-2, "bfloat16": 1e-1}.get(name, 1e-10)
    assert_relevance(explain(x, seed=r), expected, tolerance)


@pytest.mark.parametrize("function", [torch.var, torch.std])
@pytest.mark.parametrize("keepdim", [False, True])
def test_a_spread_is_shared_by_squared_deviations(function: Callable[..., Tensor], keepdim: bool) -> None:
    r = random(2, 1, 6, seed=5)
    explain = fxlrp.compile(One(lambda x: function(x, 1, keepdim=keepdim)).eval(), presets.epsilon(0.0))
    squares = (S - S.mean(1, keepdim=True)) ** 2
    expected = squares / squares.sum(1, keepdim=True) * r
    assert_relevance(explain(S, seed=r if keepdim else r.squeeze(1)), expected, 1e-10)


NATIVE: dict[str, Callable[[Tensor], Tensor]] = {
    # torch's own functions take their arguments in another order than those of torch.nn.functional
    "batch_norm": lambda x: torch.batch_norm(
        x, kernel(4), kernel(4, 1)[:, 0], kernel(4) / 2, kernel(4).abs() + 1, False, 0.1, 1e-5, False
    ),
    "instance_norm": lambda x: torch.instance_norm(x, kernel(4), kernel(4), None, None, True, 0.1, 1e-5, False),
    "layer_norm": lambda x: torch.layer_norm(x, (6,), kernel(6), kernel(6), 1e-5, False),
    "group_norm": lambda x: torch.group_norm(x, 2, kernel(4), kernel(4), 1e-5, False),
    "softmax": lambda x: torch.softmax(x, 1, torch.float32),
    "softmax_method": lambda x: x.softmax(1, torch.float32),
    "elu": lambda x: torch._C._nn.elu(x, 0.5, 2.0, 3.0),
    "avg_pool": lambda x: torch._C._nn.avg_pool2d(x, 2, None, 1, False, False),
    "dropout": lambda x: torch.dropout(x, 0.5, False),
    "to": lambda x: x.to("cpu", torch.float32),
    "sum": lambda x: torch.sum(x, 1, False, dtype=torch.float32),
    "interpolate": lambda x: torch._C._nn.upsample_nearest1d(x, (12,)),  # type: ignore[call-arg]
    "pad": lambda x: torch._C._nn.reflection_pad1d(x, (1, 1)),  # type: ignore[attr-defined]
    "max_pool_indices": lambda x: F.max_pool1d(x, 2, 2, 0, 1, False, True)[0],
    "view_dtype": lambda x: x.view(torch.int64).view(torch.float64),
    "size_argument": lambda x: x.new_zeros(x.shape) + x,
    "scalar_first": lambda x: torch.where(x > 0, 1.0, x),
    "max": lambda x: x.max(dim=1)[0],
    "var": lambda x: x.var(1),
    "einsum": lambda x: torch.einsum("bij,jk->bik", x, SQUARE),
    "pow": lambda x: x**2,
    "addmm": lambda x: torch.addmm(kernel(4, 5), x[0], SQUARE),
}


class Forward(fx.Interpreter):
    """Runs a product and keeps the value that is explained."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if getattr(n.target, "__name__", "") == "initial_relevance":
            (explained, *_) = n.all_input_nodes
            self.explained = self.env[explained]
        return value


@pytest.mark.parametrize("name", NATIVE)
def test_unusual_calls_are_right_or_refused(name: str) -> None:
    """An argument in an unusual place is understood, or the error is of fxlrp's own and names a line."""
    function = NATIVE[name]
    try:
        explain = fxlrp.compile(One(function).eval(), presets.epsilon(0.0), example_inputs=S)
    except (CaptureError, UnsupportedOpError) as error:
        assert re.search(r"at .*\.py:\d+", str(error))
        return
    runner = Forward(explain.graph_module)
    with torch.no_grad():
        runner.run(S, None, None)
    assert_relevance(runner.explained, function(S), 1e-12)
    assert torch.isfinite(explain(S)).all()
