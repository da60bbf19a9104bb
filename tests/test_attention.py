"""Transformers against closed forms: normalization, softmax, matrix products, attention, gated MLPs, whole encoders.

The formulas are in `transformer_oracles`, each with a second source; in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformer_oracles as oracle
from torch import Tensor, nn
from transformer_oracles import CONVENTIONS, Conventions, by_jacobian

import fxlrp
from fxlrp import presets, rules
from oracles import EPSILON, One, Three, Two, dense_map, epsilon_rule, move_back, random, randomize, stabilize, through

Function = Callable[..., Tensor]
PLAIN = CONVENTIONS["epsilon"]
FRONT_ENDS = ["symbolic", "export"]


def close(actual: Any, expected: Any) -> None:
    """The same shape, type and numbers, to rounding."""
    if isinstance(expected, tuple):
        assert isinstance(actual, tuple)
        assert len(actual) == len(expected)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def explained(
    model: nn.Module, inputs: tuple[Tensor, ...], seed: Tensor, rules: Any = "epsilon", **options: Any
) -> Any:
    explain = fxlrp.compile(model.eval(), rules=rules, **options)
    return explain(*(t.clone() for t in inputs), seed=seed)


def of_one(function: Function, x: Tensor, seed: Tensor, rules: Any = "epsilon", **options: Any) -> Tensor:
    return explained(One(function), (x,), seed, rules, **options)


def of_two(function: Function, a: Tensor, b: Tensor, seed: Tensor, rules: Any = "epsilon", **options: Any) -> Any:
    return explained(Two(function), (a, b), seed, rules, **options)


def of_three(
    function: Function, inputs: tuple[Tensor, ...], seed: Tensor, rules: Any = "epsilon", **options: Any
) -> Any:
    return explained(Three(function), inputs, seed, rules, **options)


def epsilon_with(*pairs: Any) -> presets.Preset:
    return presets.epsilon().override(pairs)


# ----------------------------------------------------------------------------------------------------
# Normalization

X = random(2, 3, 6, seed=1)
SEED = random(2, 3, 6, seed=2)
WEIGHT, BIAS = random(6, seed=3), random(6, seed=4)


def normalized(x: Tensor, epsilon: float = EPSILON) -> tuple[Tensor, oracle.Back]:
    return oracle.standardize(x, (-1,), WEIGHT, BIAS, 1e-5, epsilon)


def test_formula_of_a_norm_is_that_of_its_jacobian() -> None:
    """With sigma held constant the norm is affine, and its dense matrix gives the same numbers."""
    y, back = normalized(X)
    torch.testing.assert_close(y, F.layer_norm(X, (6,), WEIGHT, BIAS, 1e-5))
    sigma = (X.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    held = by_jacobian(lambda x: (x - x.mean(-1, keepdim=True)) / sigma * WEIGHT + BIAS, X, SEED)
    torch.testing.assert_close(back(SEED), held)
    rms, rms_back = oracle.standardize(X, (-1,), WEIGHT, 0.0, 1e-5, centred=False)
    torch.testing.assert_close(rms, F.rms_norm(X, (6,), WEIGHT, 1e-5))
    sigma = (X.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(rms_back(SEED), by_jacobian(lambda x: x / sigma * WEIGHT, X, SEED))


@pytest.mark.parametrize(
    ("preset", "capture"), [*((preset, "symbolic") for preset in CONVENTIONS), ("attnlrp", "export")]
)
def test_layer_norm(preset: str, capture: str) -> None:
    relevance = of_one(lambda x: F.layer_norm(x, (6,), WEIGHT, BIAS, 1e-5), X, SEED, preset, capture=capture)
    close(relevance, normalized(X)[1](SEED))


@pytest.mark.parametrize("shape", [(6,), (3, 6)], ids=str)
@pytest.mark.parametrize("affine", ["weight and bias", "weight", "none"])
def test_layer_norm_module(shape: tuple[int, ...], affine: str) -> None:
    norm = randomize(nn.LayerNorm(shape, elementwise_affine=affine != "none", bias=affine != "weight", eps=0.01))
    assert isinstance(norm, nn.LayerNorm)
    close(explained(norm, (X,), SEED), oracle.layer_norm(X, norm)[1](SEED))


def test_layer_norm_with_another_epsilon_rule() -> None:
    function = lambda x: F.layer_norm(x, (6,), WEIGHT, BIAS, 1e-5)  # noqa: E731
    relevance = of_one(function, X, SEED, epsilon_with(("layer_norm", rules.Epsilon(0.25))))
    close(relevance, normalized(X, 0.25)[1](SEED))


@pytest.mark.parametrize("groups", [1, 2, 4], ids=str)
@pytest.mark.parametrize("plane", [(5,), (3, 2)], ids=str)
def test_group_norm(groups: int, plane: tuple[int, ...]) -> None:
    norm = randomize(nn.GroupNorm(groups, 4, eps=0.01))
    x, seed = random(2, 4, *plane), random(2, 4, *plane, seed=1)
    y, back = oracle.group_norm(x, groups, norm.weight.detach(), norm.bias.detach(), 0.01)
    torch.testing.assert_close(y, norm(x).detach())
    close(explained(norm, (x,), seed), back(seed))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("kind", "plane"), [(nn.InstanceNorm1d, (5,)), (nn.InstanceNorm2d, (3, 2))])
def test_instance_norm(kind: type[nn.Module], plane: tuple[int, ...], affine: bool) -> None:
    norm = randomize(kind(4, eps=0.01, affine=affine))
    x, seed = random(2, 4, *plane), random(2, 4, *plane, seed=1)
    weight, bias = (norm.weight.detach(), norm.bias.detach()) if affine else (torch.ones(4), torch.zeros(4))
    y, back = oracle.group_norm(x, 4, weight.double(), bias.double(), 0.01)
    torch.testing.assert_close(y, norm(x).detach())
    close(explained(norm, (x,), seed), back(seed))


def test_instance_norm_with_running_statistics_is_affine() -> None:
    norm = randomize(nn.InstanceNorm1d(4, affine=True, track_running_stats=True))
    x, seed = random(2, 4, 5), random(2, 4, 5, seed=1)
    close(explained(norm, (x,), seed), by_jacobian(norm, x, seed))


def rms_by_hand(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * WEIGHT


class HandWrittenRMSNorm(nn.Module):
    """As language models write it: computed in another type and cast back."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(WEIGHT.clone())

    def forward(self, hidden: Tensor) -> Tensor:
        kind = hidden.dtype
        hidden = hidden.to(torch.float64)
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden * torch.rsqrt(variance + 1e-5)).to(kind)


RMS_BY_HAND: dict[str, Function] = {
    "rsqrt": rms_by_hand,
    "square": lambda x: WEIGHT * (x * x.square().mean(dim=-1, keepdim=True).add(1e-5).rsqrt()),
    "sqrt": lambda x: x / torch.sqrt(torch.mean(x**2, dim=-1, keepdim=True) + 1e-5) * WEIGHT,
    "product": lambda x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * WEIGHT,
    "statistic first": lambda x: torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * x * WEIGHT,
    "power": lambda x: x * (x.pow(2).mean(-1, keepdim=True) + 1e-5) ** -0.5 * WEIGHT,
    "norm": lambda x: x / (x.norm(dim=-1, keepdim=True) * 6**-0.5 + 1e-5) * WEIGHT,
}


@pytest.mark.parametrize("preset", ["epsilon", "attnlrp"])
@pytest.mark.parametrize("name", RMS_BY_HAND)
def test_rms_norm_by_hand_passes_everything_on(name: str, preset: str) -> None:
    """The statistic is a constant factor, also where products are halved."""
    close(of_one(RMS_BY_HAND[name], X, SEED, preset), SEED)


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_rms_norm_module_by_hand(capture: str) -> None:
    close(explained(HandWrittenRMSNorm(), (X,), SEED, "attnlrp", capture=capture), SEED)


@pytest.mark.parametrize("preset", CONVENTIONS)
def test_rms_norm(preset: str) -> None:
    expected = oracle.standardize(X, (-1,), WEIGHT, 0.0, 1e-5, centred=False)[1](SEED)
    close(of_one(lambda x: F.rms_norm(x, (6,), WEIGHT, 1e-5), X, SEED, preset), expected)


def test_rms_norm_module_without_weight() -> None:
    norm = nn.RMSNorm((3, 6), eps=0.01, elementwise_affine=False)
    expected = oracle.standardize(X, (-2, -1), 1.0, 0.0, 0.01, centred=False)[1](SEED)
    close(explained(norm, (X,), SEED), expected)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_both_rms_norms_agree_without_a_stabilizer(convention: str) -> None:
    preset = CONVENTIONS[convention].at(0.0).preset()
    native = of_one(lambda x: F.rms_norm(x, (6,), WEIGHT, 1e-5), X, SEED, preset)
    close(native, of_one(rms_by_hand, X, SEED, preset))


LAYER_NORM_BY_HAND: dict[str, Function] = {
    "sqrt of variance": lambda x: (
        (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5) * WEIGHT + BIAS
    ),
    "mean of squares": lambda x: (
        WEIGHT * ((x - x.mean(-1, True)) * torch.rsqrt((x - x.mean(-1, True)).pow(2).mean(-1, True) + 1e-5)) + BIAS
    ),
    "channels first": lambda x: F.layer_norm(x.transpose(1, 2).transpose(1, 2), (6,), WEIGHT, BIAS, 1e-5),
}


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", LAYER_NORM_BY_HAND)
def test_layer_norm_by_hand_without_a_stabilizer(name: str, convention: str) -> None:
    relevance = of_one(LAYER_NORM_BY_HAND[name], X, SEED, CONVENTIONS[convention].at(0.0).preset())
    close(relevance, normalized(X, 0.0)[1](SEED))


def test_l2_normalization_passes_everything_on() -> None:
    close(of_one(lambda x: F.normalize(x, dim=-1), X, SEED), SEED)


# ----------------------------------------------------------------------------------------------------
# Softmax

MASK = torch.tensor([[True, False, True, True, False, True], [True] * 6, [True] + [False] * 5])


def test_formula_of_softmax_is_input_times_its_jacobian() -> None:
    """x * J^T(R / y), the first-order Taylor expansion."""
    _, back = oracle.softmax(X)
    torch.testing.assert_close(back(SEED), by_jacobian(lambda x: torch.softmax(x, -1), X, SEED, 0.0))


@pytest.mark.parametrize("dim", [-1, 1, 0])
@pytest.mark.parametrize(
    "function",
    [
        lambda x, dim: torch.softmax(x, dim),
        lambda x, dim: F.softmax(x, dim=dim),
        lambda x, dim: x.softmax(dim=dim),
        lambda x, dim: nn.Softmax(dim=dim)(x),
        lambda x, dim: F.softmax(x, dim=dim, dtype=torch.float64),
    ],
    ids=["torch", "functional", "method", "module", "dtype"],
)
def test_softmax(function: Function, dim: int) -> None:
    close(of_one(lambda x: function(x, dim), X, SEED), oracle.softmax(X, dim)[1](SEED))


def test_softmax_in_another_type() -> None:
    """Computed in double precision for a single precision input: the relevance has the input's type."""
    x = X.float()
    relevance = of_one(lambda x: F.softmax(x, dim=-1, dtype=torch.float64), x, SEED)
    torch.testing.assert_close(relevance, oracle.softmax(x.double())[1](SEED).float())


def test_softmax_cast_back() -> None:
    x, seed = X.float(), SEED.float()
    relevance = of_one(lambda x: F.softmax(x, dim=-1, dtype=torch.float64).to(x.dtype), x, seed)
    torch.testing.assert_close(relevance, oracle.softmax(x.double())[1](seed.double()).float())


def test_softmax_of_one_element() -> None:
    """The weight is 1 whatever the score: nothing is left for it."""
    close(of_one(lambda x: torch.softmax(x, -1), X[..., :1], SEED[..., :1]), torch.zeros(2, 3, 1, dtype=torch.float64))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.masked_fill(~MASK, -math.inf).softmax(-1),
        lambda x: x.masked_fill(~MASK, float("-inf")).softmax(-1),
        lambda x: torch.where(MASK, x, -math.inf).softmax(-1),
        lambda x: torch.where(MASK, x, torch.full_like(x, -math.inf)).softmax(-1),
        lambda x: x.masked_fill(~MASK, torch.finfo(x.dtype).min).softmax(-1),
        lambda x: x.masked_fill_(~MASK, -1e9).softmax(-1),
    ],
    ids=["masked_fill", "float", "where", "where full_like", "finfo", "masked_fill_"],
)
def test_masked_softmax(function: Function) -> None:
    """Positions that the mask fills get nothing, and nothing is NaN."""
    expected = oracle.softmax(X.masked_fill(~MASK, -math.inf))[1](SEED)
    relevance = of_one(function, X, SEED)
    assert bool((relevance[:, ~MASK] == 0).all())
    close(relevance, expected)


def test_softmax_of_scores_plus_a_mask() -> None:
    """The mask is a term of the sum, at -inf too."""
    mask = torch.where(MASK, random(3, 6, seed=5), torch.full((3, 6), -math.inf, dtype=torch.float64))
    at_sum = oracle.softmax(X + mask)[1](SEED)
    close(of_one(lambda x: (x + mask).softmax(-1), X, SEED), X * at_sum / stabilize(X + mask))


def test_constant_softmax() -> None:
    for rule_set in ("cplrp", epsilon_with(("softmax", rules.Constant()))):
        close(of_one(lambda x: torch.softmax(x, -1), X, SEED, rule_set), torch.zeros_like(X))


# ----------------------------------------------------------------------------------------------------
# Matrix products

A, B, PRODUCT_SEED = random(2, 3, 4, seed=1), random(2, 4, 5, seed=2), random(2, 3, 5, seed=3)
PRODUCTS: dict[str, Function] = {
    "@": lambda a, b: a @ b,
    "torch.matmul": lambda a, b: torch.matmul(a, b),
    "method": lambda a, b: a.matmul(b),
    "torch.bmm": lambda a, b: torch.bmm(a, b),
    "bmm": lambda a, b: a.bmm(b),
    "transposed": lambda a, b: (b.transpose(-1, -2) @ a.mT).mT,
    "einsum": lambda a, b: torch.einsum("bij,bjk->bik", a, b),
    "einsum list": lambda a, b: torch.einsum("bij,bjk->bik", [a, b]),
}


def test_formula_of_a_product_is_that_of_its_jacobian() -> None:
    """Half of R to each factor with the other held constant: s(2 O) / 2 is the stabilizer halved."""
    at_a, at_b = oracle.matmul(A, B)[1](PRODUCT_SEED)
    torch.testing.assert_close(at_a, by_jacobian(lambda a: a @ B, A, PRODUCT_SEED / 2, EPSILON / 2))
    torch.testing.assert_close(at_b, by_jacobian(lambda b: A @ b, B, PRODUCT_SEED / 2, EPSILON / 2))


@pytest.mark.parametrize("name", PRODUCTS)
def test_product_is_shared_by_halves(name: str) -> None:
    close(of_two(PRODUCTS[name], A, B, PRODUCT_SEED), oracle.matmul(A, B)[1](PRODUCT_SEED))


def test_product_added_to_a_constant() -> None:
    """torch.baddbmm and torch.addbmm's kin are a product and a sum."""
    bias = random(2, 3, 5, seed=4)
    product, back = oracle.matmul(A, B)
    expected = back(2 * product * PRODUCT_SEED / stabilize(2 * product + 3 * bias))
    found = of_two(lambda a, b: torch.baddbmm(bias, a, b, beta=3, alpha=2), A, B, PRODUCT_SEED)
    close(found, expected)


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("preset", ["attnlrp", "cplrp"])
def test_product_of_two_signals_under_presets(preset: str, capture: str) -> None:
    """Neither factor is attention, so that CP-LRP shares equally too."""
    expected = oracle.matmul(A, B)[1](PRODUCT_SEED)
    close(of_two(lambda a, b: a @ b, A, B, PRODUCT_SEED, preset, capture=capture), expected)


@pytest.mark.parametrize(
    ("left", "right"),
    [((2, 3, 4), (4, 5)), ((3, 4), (2, 4, 5)), ((2, 1, 3, 4), (3, 4, 2)), ((2, 4), (4, 3)), ((1, 3, 4), (2, 4, 2))],
    ids=str,
)
def test_product_of_broadcast_factors(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = random(*left, seed=1), random(*right, seed=2)
    seed = random(*(a @ b).shape, seed=3)
    close(of_two(lambda a, b: a @ b, a, b, seed), oracle.matmul(a, b)[1](seed))


def test_product_with_vectors() -> None:
    a, v, w = random(3, 4, seed=1), random(4, seed=2), random(3, seed=3)
    at_a, at_v = oracle.matmul(a, v[:, None])[1](w[:, None])
    close(of_two(lambda a, v: a @ v, a, v, w), (at_a, at_v[:, 0]))
    at_w, at_a = oracle.matmul(w[None], a)[1](v[None])
    close(of_two(lambda w, a: torch.matmul(w, a), w, a, v), (at_w[0], at_a))


@pytest.mark.parametrize("preset", CONVENTIONS)
def test_product_with_a_constant(preset: str) -> None:
    """A linear map: all of it to the factor that depends on the input."""
    ratio = PRODUCT_SEED / stabilize(A @ B)
    close(of_one(lambda a: a @ B, A, PRODUCT_SEED, preset), A * (ratio @ B.mT))
    close(of_one(lambda b: torch.bmm(A, b), B, PRODUCT_SEED, preset), B * (A.mT @ ratio))
    close(of_one(lambda b: torch.einsum("bij,bjk->bik", A, b), B, PRODUCT_SEED, preset), B * (A.mT @ ratio))


def test_product_of_a_value_with_itself() -> None:
    """Both halves meet."""
    seed = random(2, 3, 3, seed=4)
    at_left, at_right = oracle.matmul(A, A.mT)[1](seed)
    close(of_one(lambda a: a @ a.transpose(1, 2), A, seed), at_left + at_right.mT)
    close(of_one(lambda a: torch.einsum("bid,bjd->bij", a, a), A, seed), at_left + at_right.mT)


def test_signal_takes_all_of_a_product() -> None:
    """Of attention weights and values the values take all, on whichever side they stand."""
    pairs = epsilon_with(("matmul", rules.SignalTakeAll()))
    weights = A.softmax(-1)
    at_b = B * (weights.mT @ (PRODUCT_SEED / stabilize(weights @ B)))
    close(of_two(lambda a, b: a.softmax(-1) @ b, A, B, PRODUCT_SEED, pairs), (torch.zeros_like(A), at_b))
    flipped = of_two(lambda a, b: (b.mT @ a.softmax(-1).mT).mT, A, B, PRODUCT_SEED, pairs)
    close(flipped, (torch.zeros_like(A), at_b))


EINSUMS: dict[str, tuple[tuple[int, ...], ...]] = {
    "bhqd,bhkd->bhqk": ((2, 2, 3, 4), (2, 2, 5, 4)),
    "bhqk,bhkd->bhqd": ((2, 2, 3, 5), (2, 2, 5, 4)),
    "bqhd,bkhd->bhqk": ((2, 3, 2, 4), (2, 5, 2, 4)),
    "bqd,bkd": ((2, 3, 4), (2, 5, 4)),
    "ki,ij": ((2, 3), (3, 4)),
    "...qd,...kd->...qk": ((2, 2, 3, 4), (2, 2, 5, 4)),
    "...d,de->...e": ((2, 3, 4), (4, 5)),
    "b i d, b j d -> b i j": ((2, 3, 4), (2, 5, 4)),
    "bi,bj->bij": ((2, 3), (2, 4)),
    "bi,bi->bi": ((2, 3), (2, 3)),
    "bi,bi->b": ((2, 3), (2, 3)),
    "bij,bj->b": ((2, 3, 4), (2, 4)),
    "i,ij,j->i": ((3,), (3, 4), (4,)),
    "bi,bj,bk->bijk": ((2, 2), (2, 3), (2, 4)),
    "bqd,bkd,bke->bqe": ((2, 3, 4), (2, 5, 4), (2, 5, 2)),
    "bij->bi": ((2, 3, 4),),
}


def contracted(equation: str, operands: tuple[Tensor, ...], seed: Tensor, dependent: int) -> list[Tensor]:
    """R_A = A * J_A^T(R / s(n O)) with the other operands held constant."""
    found = []
    for position in range(dependent):

        def function(a: Tensor, position: int = position) -> Tensor:
            return torch.einsum(equation, *operands[:position], a, *operands[position + 1 :])

        share = seed / dependent
        found.append(by_jacobian(function, operands[position], share, EPSILON / dependent))
    return found


@pytest.mark.parametrize("equation", EINSUMS)
def test_einsum(equation: str) -> None:
    """n operands that depend on the input: R / s(n O) for each."""
    operands = tuple(random(*shape, seed=i) for i, shape in enumerate(EINSUMS[equation]))
    seed = random(*torch.einsum(equation, *operands).shape, seed=9)
    model = {1: One, 2: Two, 3: Three}[len(operands)](lambda *each: torch.einsum(equation, *each))
    found = explained(model, operands, seed)
    expected = contracted(equation, operands, seed, len(operands))
    close(found if len(operands) > 1 else (found,), tuple(expected))


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("equation", ["bqd,bkd->bqk", "bqd,bkd,bke->bqe", "...d,de->...e"])
def test_einsum_through_both_front_ends(equation: str, capture: str) -> None:
    operands = tuple(random(*shape, seed=i) for i, shape in enumerate(EINSUMS.get(equation, ((2, 3, 4), (2, 5, 4)))))
    seed = random(*torch.einsum(equation, *operands).shape, seed=9)
    model = {2: Two, 3: Three}[len(operands)](lambda *each: torch.einsum(equation, *each))
    close(explained(model, operands, seed, capture=capture), tuple(contracted(equation, operands, seed, len(operands))))


@pytest.mark.parametrize("equation", ["bi,oi->bo", "...i,oi->...o", "bqd,bkd->bqk", "bi,bi->bi"])
def test_einsum_with_a_constant(equation: str) -> None:
    shapes = {"bi,oi->bo": ((2, 3), (4, 3)), "...i,oi->...o": ((2, 5, 3), (4, 3))}.get(
        equation, EINSUMS.get(equation, ((2, 3, 4), (2, 5, 4)))
    )
    x, constant = (random(*shape, seed=i) for i, shape in enumerate(shapes))
    seed = random(*torch.einsum(equation, x, constant).shape, seed=9)
    (expected,) = contracted(equation, (x, constant), seed, 1)
    close(of_one(lambda x: torch.einsum(equation, x, constant), x, seed), expected)


def test_einsum_of_two_inputs_and_a_constant() -> None:
    """A bilinear form: the matrix takes nothing, the two vectors half each."""
    a, b, matrix, seed = random(2, 3), random(2, 4, seed=1), random(3, 4, seed=2), random(2, seed=3)
    ratio = (seed / stabilize(2 * torch.einsum("bi,ij,bj->b", a, matrix, b)))[:, None]
    found = of_two(lambda a, b: torch.einsum("bi,ij,bj->b", a, matrix, b), a, b, seed)
    close(found, (a * ratio * (b @ matrix.T), b * ratio * (a @ matrix)))


def test_einsum_that_moves_only() -> None:
    x, seed = random(2, 3, 4), random(2, 4, 3, seed=1)
    close(of_one(lambda x: torch.einsum("bij->bji", x), x, seed, presets.epsilon(epsilon=0)), seed.mT)


# ----------------------------------------------------------------------------------------------------
# Scaled dot product attention

Q, K, V = random(2, 2, 3, 4, seed=1), random(2, 2, 5, 4, seed=2), random(2, 2, 5, 6, seed=3)
ATTENTION_SEED = random(2, 2, 3, 6, seed=4)
KEEP = torch.tensor([[True, True, False, True, False], [True] * 5, [False, True, False, False, False]])
FLOAT_MASK = random(3, 5, seed=5)
PARTLY_INFINITE = torch.where(KEEP, FLOAT_MASK, torch.full_like(FLOAT_MASK, -math.inf))
CAUSAL = torch.ones(3, 5, dtype=torch.bool).tril()
PER_HEAD = random(2, 2, 3, 5, seed=6) > -0.8
PER_BATCH = torch.tensor([[True] * 5, [True, True, True, False, False]])[:, None, None, :]

# options of F.scaled_dot_product_attention; what the oracle is told
SDPA: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "scale": ({"scale": 0.3}, {"scale": 0.3}),
    "no dropout": ({"dropout_p": 0.0, "is_causal": False}, {}),
    "causal": ({"is_causal": True}, {"keep": CAUSAL}),
    "bool mask": ({"attn_mask": KEEP}, {"keep": KEEP}),
    "bool mask for each head": ({"attn_mask": PER_HEAD}, {"keep": PER_HEAD}),
    "bool mask for each sample": ({"attn_mask": PER_BATCH}, {"keep": PER_BATCH}),
    "float mask": ({"attn_mask": FLOAT_MASK}, {"bias": FLOAT_MASK}),
    "float mask with -inf": ({"attn_mask": PARTLY_INFINITE}, {"bias": PARTLY_INFINITE}),
    "mask and scale": ({"attn_mask": KEEP, "scale": 2.0}, {"keep": KEEP, "scale": 2.0}),
}


def by_hand(q: Tensor, k: Tensor, v: Tensor, keep: Any = None, bias: Any = None, scale: float | None = None) -> Tensor:
    """Attention written out in a model's words."""
    scores = (q * (q.size(-1) ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    if keep is not None:
        scores = scores.masked_fill(~keep, float("-inf"))
    if bias is not None:
        scores = scores + bias
    return torch.softmax(scores, dim=-1) @ v


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", SDPA)
def test_attention(name: str, convention: str) -> None:
    """The fused function and the written-out one have the relevance of the formulas."""
    options, told = SDPA[name]
    out, back = oracle.attention(Q, K, V, CONVENTIONS[convention], **told)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(Q, K, V, **options))
    expected = back(ATTENTION_SEED)
    fused = of_three(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options), (Q, K, V), ATTENTION_SEED, convention
    )
    close(fused, expected)
    written = of_three(lambda q, k, v: by_hand(q, k, v, **told), (Q, K, V), ATTENTION_SEED, convention)
    close(written, expected)


SCALES: dict[str, Function] = {
    "1 / math.sqrt": lambda q, k: (q * (1 / math.sqrt(q.size(-1)))) @ k.mT,
    "1.0 / math.sqrt of a shape": lambda q, k: (q * (1.0 / math.sqrt(k.shape[-1]))) @ k.mT,
    "divided": lambda q, k: (q / math.sqrt(q.size(-1))) @ k.mT,
    "divided by a power": lambda q, k: (q / q.shape[-1] ** 0.5) @ k.mT,
    "power": lambda q, k: (q * q.shape[-1] ** -0.5) @ k.mT,
    "square root of a quotient": lambda q, k: (q * math.sqrt(1 / q.shape[-1])) @ k.mT,
    "torch.sqrt": lambda q, k: (q / torch.sqrt(torch.tensor(q.size(-1), dtype=torch.float64))) @ k.mT,
    "float": lambda q, k: (q * float(q.size(-1)) ** -0.5) @ k.mT,
    "in place": lambda q, k: q.mul(1.0).div_(math.sqrt(q.size(-1))) @ k.mT,
}


@pytest.mark.parametrize(
    ("name", "capture"),
    [*((name, "auto") for name in SCALES), ("1 / math.sqrt", "export"), ("torch.sqrt", "export")],
)
def test_scale_of_attention_in_every_spelling(name: str, capture: str) -> None:
    """One over the square root of the head dimension, which the model reads from a shape."""
    found = of_three(lambda q, k, v: SCALES[name](q, k).softmax(-1) @ v, (Q, K, V), ATTENTION_SEED, capture=capture)
    close(found, oracle.attention(Q, K, V, PLAIN)[1](ATTENTION_SEED))


@pytest.mark.parametrize("name", ["causal", "bool mask", "float mask with -inf"])
def test_attention_through_export(name: str) -> None:
    options, told = SDPA[name]
    found = of_three(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options),
        (Q, K, V),
        ATTENTION_SEED,
        "attnlrp",
        capture="export",
    )
    close(found, oracle.attention(Q, K, V, CONVENTIONS["attnlrp"], **told)[1](ATTENTION_SEED))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_formulas_of_attention_are_input_times_gradient(convention: str) -> None:
    """Without a stabilizer the chain of formulas is one gradient of the surrogate."""
    conventions = CONVENTIONS[convention].at(0.0)

    def surrogate(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = oracle.held_matmul(q / 2, k.mT) + FLOAT_MASK
        return oracle.held_matmul(scores.softmax(-1), v, conventions.constant_attention)

    expected = oracle.input_times_gradient(surrogate, (Q, K, V), ATTENTION_SEED)
    found = oracle.attention(Q, K, V, conventions, bias=FLOAT_MASK)[1](ATTENTION_SEED)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
    compiled = of_three(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, FLOAT_MASK),
        (Q, K, V),
        ATTENTION_SEED,
        conventions.preset(),
    )
    torch.testing.assert_close(compiled, expected, rtol=1e-8, atol=1e-9)


def test_attention_mask_that_is_an_input() -> None:
    """A float mask of the model's own inputs is an operand of the sum like any other."""

    class Masked(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    found = explained(Masked(), (Q, K, V, FLOAT_MASK), ATTENTION_SEED)
    scores = (Q / 2) @ K.mT
    weights, weights_back = oracle.softmax(scores + FLOAT_MASK)
    at_sum = weights_back(oracle.matmul(weights, V)[1](ATTENTION_SEED)[0])
    at_mask = oracle.summed_to(FLOAT_MASK * at_sum / stabilize(scores + FLOAT_MASK), FLOAT_MASK.shape)
    close(found, (*oracle.attention(Q, K, V, PLAIN, bias=FLOAT_MASK)[1](ATTENTION_SEED), at_mask))


@pytest.mark.parametrize("capture", ["auto", "export"])
def test_bool_mask_that_is_an_input(capture: str) -> None:
    """Chosen at the call and not known when the model is compiled: it has no relevance."""

    class Masked(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    found = explained(Masked(), (Q, K, V, KEEP), ATTENTION_SEED, capture=capture)
    expected = oracle.attention(Q, K, V, PLAIN, keep=KEEP)[1](ATTENTION_SEED)
    close(tuple(found)[:3], expected)


def test_attention_of_three_dimensions() -> None:
    q, k, v, seed = Q[0], K[0], V[0], ATTENTION_SEED[0]
    found = of_three(F.scaled_dot_product_attention, (q, k, v), seed)
    close(found, oracle.attention(q, k, v, PLAIN)[1](seed))


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("causal", [False, True])
def test_grouped_query_attention(causal: bool, capture: str) -> None:
    """Heads of keys and values are repeated, and the relevance of the copies adds up."""
    q, seed = random(2, 4, 3, 4, seed=7), random(2, 4, 3, 6, seed=8)
    expected = oracle.attention(q, K, V, PLAIN, keep=CAUSAL if causal else None)[1](seed)
    found = of_three(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True),
        (q, K, V),
        seed,
        capture=capture,
    )
    close(found, expected)


NUMBER_OVER_SIZE: dict[str, Function] = {
    "1 / x.shape": lambda x: x.sum(1) * (1 / x.shape[1]),
    "1.0 / x.size": lambda x: (1.0 / x.size(1)) * x.sum(dim=1),
    "over a sum of sizes": lambda x: x.sum(1) * (3.0 / (x.size(1) + x.size(2) - 6)) / 3,
}


@pytest.mark.parametrize("name", NUMBER_OVER_SIZE)
def test_number_divided_by_a_size(name: str) -> None:
    """A size is no tensor, and what is computed from it is a constant factor."""
    seed = random(2, 6)
    close(of_one(NUMBER_OVER_SIZE[name], X, seed), X * (seed / stabilize(X.sum(1)))[:, None])


REPEATED: dict[str, Function] = {
    "repeat_interleave": lambda t: t.repeat_interleave(2, dim=1),
    "expand": lambda t: t[:, :, None, :, :].expand(2, 2, 2, 5, t.shape[-1]).reshape(2, 4, 5, t.shape[-1]),
    "stack": lambda t: torch.stack([t, t], dim=2).flatten(1, 2),
}


@pytest.mark.parametrize("name", REPEATED)
def test_grouped_query_attention_by_hand(name: str) -> None:
    q, seed, repeat = random(2, 4, 3, 4, seed=7), random(2, 4, 3, 6, seed=8), REPEATED[name]
    found = of_three(lambda q, k, v: F.scaled_dot_product_attention(q, repeat(k), repeat(v)), (q, K, V), seed)
    close(found, oracle.attention(q, K, V, PLAIN)[1](seed))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_fully_masked_row(convention: str) -> None:
    """A query that may look at nothing has the output 0, and gives nothing to anyone."""
    keep = KEEP.clone()
    keep[1] = False
    told = CONVENTIONS[convention]
    _, back = oracle.attention(Q, K, V, told, keep=keep)
    assert bool((F.scaled_dot_product_attention(Q, K, V, attn_mask=keep)[:, :, 1] == 0).all())
    found = of_three(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=keep), (Q, K, V), ATTENTION_SEED, convention
    )
    for relevance in found:
        assert bool(relevance.isfinite().all())
    assert bool((found[0][:, :, 1] == 0).all())
    close(found, back(ATTENTION_SEED))


def test_fully_masked_row_of_a_float_mask() -> None:
    mask = FLOAT_MASK.clone()
    mask[1] = -math.inf
    found = of_three(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask), (Q, K, V), ATTENTION_SEED)
    close(found, oracle.attention(Q, K, V, PLAIN, bias=mask)[1](ATTENTION_SEED))


# ----------------------------------------------------------------------------------------------------
# nn.MultiheadAttention


class SelfAttention(nn.Module):
    """nn.MultiheadAttention on one tensor, as encoders call it."""

    def __init__(self, module: nn.Module, **options: Any) -> None:
        super().__init__()
        self.module = module
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x, x, x, **self.options)[0]


class CrossAttention(SelfAttention):
    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.module(query, key, value, **self.options)[0]


class WrittenOut(nn.Module):
    """The same with a linear layer for q, k and v, the fused function or products, and a linear layer."""

    def __init__(self, module: nn.MultiheadAttention, fused: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.heads, self.fused = nn.Linear(8, 24), nn.Linear(8, 8), module.num_heads, fused
        self.double()
        self.qkv.load_state_dict({"weight": module.in_proj_weight, "bias": module.in_proj_bias})
        self.out.load_state_dict(module.out_proj.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, 8 // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v) if self.fused else by_hand(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(b, n, 8))


def multi_head(batch_first: bool = True, bias: bool = True) -> nn.MultiheadAttention:
    module = randomize(nn.MultiheadAttention(8, 2, batch_first=batch_first, bias=bias))
    assert isinstance(module, nn.MultiheadAttention)
    return module


TOKENS, TOKENS_SEED = random(2, 4, 8, seed=1), random(2, 4, 8, seed=2)
PADDED = torch.tensor([[False, False, False, True], [False, False, True, True]])
FORBIDDEN = torch.tensor([[False, True, True, True], [False, False, True, True], [False] * 3 + [True], [False] * 4])
ADDED = random(4, 4, seed=9)
FIRST = torch.triu(torch.full((4, 4), -math.inf, dtype=torch.float64), 1)

# options of the module; what the oracle is told
MULTI_HEAD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "padding": ({"key_padding_mask": PADDED}, {"keep": ~PADDED[:, None, None]}),
    "bool mask": ({"attn_mask": FORBIDDEN}, {"keep": ~FORBIDDEN}),
    "bool mask for each head": (
        {"attn_mask": FORBIDDEN.expand(4, 4, 4)},
        {"keep": ~FORBIDDEN},
    ),
    "float mask": ({"attn_mask": ADDED}, {"bias": ADDED}),
    "causal": ({"attn_mask": FIRST, "is_causal": True}, {"keep": FIRST == 0}),
    "both": (
        {"attn_mask": FORBIDDEN, "key_padding_mask": PADDED},
        {"keep": ~(FORBIDDEN | PADDED[:, None, None])},
    ),
}


def self_attention(
    x: Tensor, seed: Tensor, module: nn.MultiheadAttention, conventions: Conventions, **told: Any
) -> tuple[Tensor, Tensor]:
    """The value and the relevance: query, key and value are one tensor."""
    out, back = oracle.multi_head_attention(x, x, x, module, conventions, **told)
    return out, sum(back(seed), torch.zeros_like(x))


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("name", MULTI_HEAD)
def test_multi_head_attention(name: str, need_weights: bool) -> None:
    """LRP-0 here: torch turns bool masks into sums with 0 and -inf, whose stabilizer is not in the formula."""
    options, told = MULTI_HEAD[name]
    module, conventions = multi_head(), PLAIN.at(0.0)
    model = SelfAttention(module, need_weights=need_weights, **options)
    out, expected = self_attention(TOKENS, TOKENS_SEED, module, conventions, **told)
    torch.testing.assert_close(out, model(TOKENS).detach())
    found = explained(model, (TOKENS,), TOKENS_SEED, conventions.preset())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_multi_head_attention_with_the_stabilizer(bias: bool, need_weights: bool, convention: str) -> None:
    module = multi_head(bias=bias)
    _, expected = self_attention(TOKENS, TOKENS_SEED, module, CONVENTIONS[convention])
    found = explained(SelfAttention(module, need_weights=need_weights), (TOKENS,), TOKENS_SEED, convention)
    close(found, expected)


@pytest.mark.parametrize("name", ["padding", "bool mask"])
def test_multi_head_attention_with_a_mask_and_the_stabilizer(name: str) -> None:
    """Masked positions get 0, and a bool mask has no other effect."""
    options, told = MULTI_HEAD[name]
    module = multi_head()
    _, expected = self_attention(TOKENS, TOKENS_SEED, module, PLAIN, **told)
    close(explained(SelfAttention(module, need_weights=False, **options), (TOKENS,), TOKENS_SEED), expected)


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("fused", [True, False])
def test_multi_head_attention_is_its_written_out_form(fused: bool, capture: str) -> None:
    module = multi_head()
    _, expected = self_attention(TOKENS, TOKENS_SEED, module, PLAIN)
    close(explained(WrittenOut(module, fused), (TOKENS,), TOKENS_SEED, capture=capture), expected)


@pytest.mark.parametrize("need_weights", [True, False])
def test_multi_head_attention_through_export(need_weights: bool) -> None:
    module = multi_head()
    _, expected = self_attention(TOKENS, TOKENS_SEED, module, PLAIN)
    model = SelfAttention(module, need_weights=need_weights)
    close(explained(model, (TOKENS,), TOKENS_SEED, capture="export"), expected)


def test_multi_head_attention_with_the_batch_second() -> None:
    module = multi_head(batch_first=False)
    _, expected = self_attention(TOKENS, TOKENS_SEED, module, PLAIN)
    found = explained(SelfAttention(module), (TOKENS.transpose(0, 1),), TOKENS_SEED.transpose(0, 1))
    close(found, expected.transpose(0, 1))


@pytest.mark.parametrize(("batch_first", "capture"), [(True, "auto"), (False, "auto"), (True, "export")])
def test_multi_head_attention_without_a_batch(batch_first: bool, capture: str) -> None:
    module = multi_head(batch_first=batch_first)
    _, expected = self_attention(TOKENS[:1], TOKENS_SEED[:1], module, PLAIN)
    options = {"capture": capture, "example_inputs": TOKENS[0]}
    close(explained(SelfAttention(module), (TOKENS[0],), TOKENS_SEED[0], **options), expected[0])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_cross_attention(convention: str) -> None:
    module, memory = multi_head(), random(2, 5, 8, seed=3)
    _, back = oracle.multi_head_attention(TOKENS, memory, memory + 1, module, CONVENTIONS[convention])
    inputs = (TOKENS, memory, memory + 1)
    close(explained(CrossAttention(module, need_weights=False), inputs, TOKENS_SEED, convention), back(TOKENS_SEED))


def test_multi_head_attention_with_other_widths() -> None:
    """kdim and vdim: three projections of their own."""
    module = randomize(nn.MultiheadAttention(8, 2, kdim=3, vdim=5, batch_first=True))
    key, value = random(2, 5, 3, seed=3), random(2, 5, 5, seed=4)
    b_q, b_k, b_v = module.in_proj_bias.detach().chunk(3)
    q, q_back = oracle.linear(TOKENS, module.q_proj_weight.detach(), b_q)
    k, k_back = oracle.linear(key, module.k_proj_weight.detach(), b_k)
    v, v_back = oracle.linear(value, module.v_proj_weight.detach(), b_v)
    mixed, back = oracle.attention(*(oracle.split_heads(t, 2) for t in (q, k, v)), PLAIN)
    _, out_back = oracle.linear(
        oracle.join_heads(mixed), module.out_proj.weight.detach(), module.out_proj.bias.detach()
    )
    at_q, at_k, at_v = (oracle.join_heads(t) for t in back(oracle.split_heads(out_back(TOKENS_SEED), 2)))
    found = explained(CrossAttention(module), (TOKENS, key, value), TOKENS_SEED)
    close(found, (q_back(at_q), k_back(at_k), v_back(at_v)))


# ----------------------------------------------------------------------------------------------------
# Gated MLPs


class GatedMLP(nn.Module):
    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.gate = randomize(nn.Linear(6, 5, bias=False), 1)
        self.up = randomize(nn.Linear(6, 5, bias=False), 2)
        self.down = randomize(nn.Linear(5, 6, bias=False), 3)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate(x), self.up(x)
        if self.style == "SwiGLU":
            hidden = F.silu(gate) * up
        elif self.style == "silu by hand":
            hidden = gate * torch.sigmoid(gate) * up
        elif self.style == "GEGLU":
            hidden = up * F.gelu(gate)
        elif self.style == "tanh GEGLU":
            hidden = up * F.gelu(gate, approximate="tanh")
        elif self.style == "chunk":
            first, second = torch.cat([up, gate], -1).chunk(2, -1)
            hidden = first * torch.sigmoid(second)
        else:
            hidden = F.glu(torch.cat([up, gate], dim=-1), dim=-1)
        return self.down(hidden)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "SwiGLU": F.silu,
    "GEGLU": F.gelu,
    "tanh GEGLU": lambda x: F.gelu(x, approximate="tanh"),
    "chunk": torch.sigmoid,
    "F.glu": torch.sigmoid,
}


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("style", ACTIVATIONS)
def test_gated_mlp(style: str, convention: str) -> None:
    """All to the up projection, or half each; the gate's activation passes its half on."""
    model, conventions = GatedMLP(style), CONVENTIONS[convention]
    gate, gate_back = oracle.linear(X, model.gate.weight.detach(), None)
    up, up_back = oracle.linear(X, model.up.weight.detach(), None)
    hidden, hidden_back = oracle.gated(up, gate, ACTIVATIONS[style], conventions)
    _, down_back = oracle.linear(hidden, model.down.weight.detach(), None)
    at_up, at_gate = hidden_back(down_back(SEED))
    close(explained(model, (X,), SEED, convention), up_back(at_up) + gate_back(at_gate))


@pytest.mark.parametrize("style", ["SwiGLU", "F.glu"])
def test_gated_mlp_through_both_front_ends(style: str) -> None:
    for preset in (None, "attnlrp"):
        first, second = (explained(GatedMLP(style), (X,), SEED, preset, capture=capture) for capture in FRONT_ENDS)
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


# ----------------------------------------------------------------------------------------------------
# Positions

ANGLES = torch.outer(torch.arange(3.0, dtype=torch.float64), torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64))
COS, SIN = torch.cat([ANGLES, ANGLES], -1).cos(), torch.cat([ANGLES, ANGLES], -1).sin()


def rotate_half(x: Tensor) -> Tensor:
    first, second = x[..., :3], x[..., 3:]
    return torch.cat((-second, first), dim=-1)


def rotated(x: Tensor) -> Tensor:
    return x * COS + rotate_half(x) * SIN


def interleaved(x: Tensor) -> Tensor:
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = ANGLES.cos(), ANGLES.sin()
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


@pytest.mark.parametrize("function", [rotated, interleaved], ids=["halves", "interleaved"])
@pytest.mark.parametrize("preset", CONVENTIONS)
def test_rotary_embedding(function: Function, preset: str) -> None:
    """A rotation by constants is one linear map: x * J^T(R / s(z))."""
    close(of_one(function, X, SEED, preset), by_jacobian(function, X, SEED))


def test_rotary_embedding_with_computed_angles() -> None:
    """Frequencies in a buffer, angles from torch.arange over the length."""

    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("frequencies", torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            positions = torch.arange(x.shape[1], dtype=torch.float64, device=x.device)
            angles = torch.outer(positions, self.frequencies)
            angles = torch.cat((angles, angles), dim=-1)
            return x * angles.cos() + rotate_half(x) * angles.sin()

    for capture in FRONT_ENDS:
        close(explained(Rotary(), (X,), SEED, capture=capture), by_jacobian(rotated, X, SEED))


def test_relative_position_bias() -> None:
    """Rows of a table, chosen by a constant index, are a constant term of the scores."""

    class Relative(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(random(5, 2, seed=7))
            self.register_buffer("index", torch.arange(3)[:, None] - torch.arange(3)[None, :] + 2)

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            bias = self.table[self.index.view(-1)].view(3, 3, 2).permute(2, 0, 1).contiguous()
            scores = (q * 0.5) @ k.transpose(-2, -1) + bias.unsqueeze(0)
            return scores.softmax(dim=-1) @ v

    model = Relative()
    k, v = K[:, :, :3], V[:, :, :3]
    bias = model.table.detach()[model.index].permute(2, 0, 1)
    expected = oracle.attention(Q, k, v, PLAIN, bias=bias)[1](ATTENTION_SEED)
    close(explained(model, (Q, k, v), ATTENTION_SEED), expected)


def test_position_bias_from_an_embedding() -> None:
    """As T5 does: an embedding of constant indices is as constant as they are."""

    class Relative(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = randomize(nn.Embedding(5, 2), 7)

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            positions = torch.arange(3)
            bias = self.table(positions[:, None] - positions[None, :] + 2).permute(2, 0, 1).unsqueeze(0)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    model = Relative()
    k, v = K[:, :, :3], V[:, :, :3]
    index = torch.arange(3)[:, None] - torch.arange(3)[None, :] + 2
    bias = model.table.weight.detach()[index].permute(2, 0, 1)
    expected = oracle.attention(Q, k, v, PLAIN, bias=bias)[1](ATTENTION_SEED)
    for capture in FRONT_ENDS:
        close(explained(model, (Q, k, v), ATTENTION_SEED, capture=capture), expected)


IDS = torch.tensor([[3, 1, 4, 1], [5, 2, 0, 0]])


class Embedded(nn.Module):
    """Token and position embedding, and a linear layer."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.token = randomize(nn.Embedding(6, 5, padding_idx=0), 1)
        self.position = randomize(nn.Embedding(4, 5), 2)
        self.register_buffer("positions", torch.arange(4).expand(1, -1))
        self.linear = randomize(nn.Linear(5, 3), 3)

    def forward(self, ids: Tensor) -> Tensor:
        if self.style == "buffer":
            position = self.position(self.positions[:, : ids.shape[1]])
        elif self.style == "arange":
            position = self.position(torch.arange(ids.shape[1], device=ids.device))
        else:
            position = self.position.weight
        return self.linear(self.token(ids) + position)


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("style", ["buffer", "arange", "parameter"])
def test_token_and_position_embedding(style: str, capture: str) -> None:
    """A token has the sum over its features; the position takes its share as a constant."""
    model, seed = Embedded(style), random(2, 4, 3)
    tokens, positions = model.token.weight.detach()[IDS], model.position.weight.detach()
    _, back = oracle.linear(tokens + positions, model.linear.weight.detach(), model.linear.bias.detach())
    expected = oracle.add(tokens, positions)[1](back(seed))[0].sum(-1)
    close(explained(model, (IDS,), seed, capture=capture), expected)


class PaddedAttention(nn.Module):
    """Keys of padding are masked out."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.token = randomize(nn.Embedding(6, 4), 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids)
        keep = (ids != 0)[:, None, :]
        scores = (x * 0.5) @ x.transpose(1, 2)
        if self.style == "masked_fill":
            scores = scores.masked_fill(~keep, float("-inf"))
        elif self.style == "where":
            scores = torch.where(keep, scores, torch.finfo(scores.dtype).min)
        else:
            scores = scores + (1.0 - keep.to(scores.dtype)) * -1e9
        return scores.softmax(-1) @ x


@pytest.mark.parametrize("capture", ["auto", "export"])
@pytest.mark.parametrize("style", ["masked_fill", "where", "sum"])
def test_padding_mask(style: str, capture: str) -> None:
    model, seed = PaddedAttention(style), random(2, 4, 4)
    x, keep = model.token.weight.detach()[IDS], (IDS != 0)[:, None]
    told = {"bias": (1.0 - keep.double()) * -1e9} if style == "sum" else {"keep": keep}
    expected = sum(oracle.attention(x, x, x, PLAIN, scale=0.5, **told)[1](seed), torch.zeros_like(x))
    close(explained(model, (IDS,), seed, capture=capture), expected.sum(-1))


def test_padding_mask_that_is_an_input() -> None:
    """A mask of integers beside the tokens selects nothing of an embedding, and has no relevance."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = randomize(nn.Embedding(6, 4), 1)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            x = self.token(ids)
            scores = (x * 0.5) @ x.transpose(1, 2)
            return scores.masked_fill(mask[:, None, :] == 0, float("-inf")).softmax(-1) @ x

    model, seed = Masked(), random(2, 4, 4)
    x, keep = model.token.weight.detach()[IDS], (IDS != 0)[:, None]
    expected = sum(oracle.attention(x, x, x, PLAIN, scale=0.5, keep=keep)[1](seed), torch.zeros_like(x)).sum(-1)
    found = explained(model, (IDS, (IDS != 0).long()), seed)
    close(found[0] if isinstance(found, tuple) else found, expected)


# ----------------------------------------------------------------------------------------------------
# What moves elements, and other linear maps

IMAGE = random(2, 4, 4, 4, seed=1)


def windows(x: Tensor) -> Tensor:
    """Shifted windows of 2 x 2, as in Swin."""
    x = torch.roll(x, shifts=(-1, -1), dims=(2, 3)).permute(0, 2, 3, 1)
    b, h, w, c = x.shape
    x = x.view(b, h // 2, 2, w // 2, 2, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 4, c)


def and_back(x: Tensor) -> Tensor:
    parts = windows(x) * 2
    x = parts.view(-1, 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 4, 4, 4)
    return torch.roll(x, shifts=(1, 1), dims=(1, 2))


INDEX = torch.tensor([2, 0, 2, 3])
GATHERED = torch.randint(0, 4, (2, 4, 4, 2), generator=torch.Generator().manual_seed(0))
MOVES: dict[str, Function] = {
    "windows": windows,
    "windows and back": and_back,
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "nn.PixelShuffle": nn.PixelShuffle(2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "unfold": lambda x: F.unfold(x, 2),
    "unfold with options": lambda x: F.unfold(x, (3, 2), dilation=1, padding=1, stride=(2, 1)),
    "Tensor.unfold": lambda x: x.unfold(2, 3, 1),
    "Tensor.unfold twice": lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4),
    "index": lambda x: x[:, INDEX],
    "index of two dimensions": lambda x: x[:, INDEX, INDEX],
    "index of apart dimensions": lambda x: x[:, INDEX, :, INDEX],
    "bool index": lambda x: x[:, torch.tensor([True, False, True, True])],
    "index_select": lambda x: x.index_select(2, INDEX),
    "gather": lambda x: x.gather(-1, GATHERED),
    "take_along_dim": lambda x: torch.take_along_dim(x, GATHERED, dim=-1),
    "class token": lambda x: x.flatten(2)[:, :, 0],
    "repeat": lambda x: x.repeat(1, 2, 1, 3),
    "swapaxes and movedim": lambda x: x.swapaxes(1, 2).movedim(-1, 1),
    "unbind": lambda x: x.unbind(1)[2],
    "diagonal": lambda x: x.diagonal(dim1=2, dim2=3),
    "tril": lambda x: x.tril(),
    "sort": lambda x: x.sort(dim=-1).values,
    "sort descending": lambda x: torch.sort(x, dim=1, descending=True)[0],
    "topk": lambda x: x.topk(2, dim=-1).values,
    "smallest": lambda x: torch.topk(x, 3, dim=2, largest=False)[0],
    "max": lambda x: x.max(dim=-1).values,
    "max kept": lambda x: torch.max(x, 1, keepdim=True)[0],
    "min": lambda x: x.min(dim=2)[0],
    "amax": lambda x: x.amax(dim=(2, 3)),
    "argsort and gather": lambda x: x.gather(-1, x.argsort(dim=-1)),
}


@pytest.mark.parametrize("name", MOVES)
def test_relevance_follows_the_elements(name: str) -> None:
    """J^T R with J a matrix of zeros and ones; duplicates add up, the chosen element takes all."""
    function = MOVES[name]
    seed = random(*function(IMAGE).shape, seed=2)
    expected = move_back(function, IMAGE, seed / 2 if name == "windows and back" else seed)
    close(of_one(function, IMAGE, seed), expected)


@pytest.mark.parametrize("name", ["windows and back", "Tensor.unfold", "topk", "gather", "index of two dimensions"])
def test_relevance_follows_the_elements_through_export(name: str) -> None:
    function = MOVES[name]
    seed = random(*function(IMAGE).shape, seed=2)
    expected = move_back(function, IMAGE, seed / 2 if name == "windows and back" else seed)
    close(of_one(function, IMAGE, seed, capture="export"), expected)


LINEAR_MAPS: dict[str, Function] = {
    "cumsum": lambda x: x.cumsum(dim=-1),
    "torch.cumsum": lambda x: torch.cumsum(x, 1),
    "fold": lambda x: F.fold(x.flatten(2).reshape(2, 8, 8), (3, 5), (2, 2)),
    "sum": lambda x: x.sum((1, 2)),
    "mean": lambda x: x.mean(1),
    "conv_transpose2d": randomize(nn.ConvTranspose2d(4, 3, 2, stride=2), 5),
    "conv_transpose2d with options": randomize(
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), 6
    ),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
}


@pytest.mark.parametrize("name", LINEAR_MAPS)
def test_linear_map(name: str) -> None:
    """x * J^T(R / s(z))."""
    function = LINEAR_MAPS[name]
    seed = random(*function(IMAGE).shape, seed=2)
    close(of_one(function, IMAGE, seed), by_jacobian(function, IMAGE, seed))


def test_conv_transpose_by_its_matrix() -> None:
    layer = LINEAR_MAPS["conv_transpose2d"]
    seed = random(2, 3, 8, 8, seed=2)
    expected = through(epsilon_rule, dense_map(layer, (4, 4, 4)), IMAGE, seed)
    close(explained(layer, (IMAGE,), seed), expected)


@pytest.mark.parametrize(
    ("function", "first_wins"),
    [
        (torch.maximum, True),
        (torch.minimum, False),
        (lambda a, b: torch.max(a, b), True),
        (lambda a, b: torch.min(a, b), False),
        (lambda a, b: a.maximum(b), True),
    ],
    ids=["maximum", "minimum", "max", "min", "method"],
)
def test_elementwise_winner_takes_all(function: Function, first_wins: bool) -> None:
    other = random(2, 3, 6, seed=5)
    to_first = torch.gt(X, other) == first_wins
    zero = torch.zeros_like(SEED)
    expected = (torch.where(to_first, SEED, zero), torch.where(to_first, zero, SEED))
    close(of_two(function, X, other, SEED), expected)


COSINES: dict[str, Function] = {
    "F.cosine_similarity": lambda a, b: F.cosine_similarity(a, b, dim=-1),
    "nn.CosineSimilarity": nn.CosineSimilarity(dim=-1),
    "normalize": lambda a, b: (F.normalize(a, dim=-1) * F.normalize(b, dim=-1)).sum(-1),
    "norms": lambda a, b: (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)),
    "einsum": lambda a, b: torch.einsum("bnd,bnd->bn", a / a.norm(dim=-1, keepdim=True), F.normalize(b, dim=-1)),
}


@pytest.mark.parametrize("name", COSINES)
def test_cosine_similarity(name: str) -> None:
    """The norms are statistics, and the inner product is shared by halves: a b R / (2 sum a b), without stabilizer."""
    other, seed = random(2, 3, 6, seed=5), random(2, 3, seed=6)
    half = X * other * (seed / (2 * (X * other).sum(-1)))[..., None]
    close(of_two(COSINES[name], X, other, seed, presets.epsilon(epsilon=0)), (half, half))


def test_scores_against_normalized_prototypes() -> None:
    """CLIP's head: normalized features times normalized constants, scaled."""
    prototypes, seed = F.normalize(random(5, 6, seed=7), dim=-1), random(2, 3, 5, seed=8)
    relevance = of_one(
        lambda x: 20.0 * (x / x.norm(dim=-1, keepdim=True)) @ prototypes.T, X, seed, presets.epsilon(epsilon=0)
    )
    close(relevance, X * ((seed / (X @ prototypes.T)) @ prototypes))


# ----------------------------------------------------------------------------------------------------
# An encoder of two layers, end to end


class Block(nn.Module):
    """Pre-norm; the second kind has RMS norms and a gated MLP."""

    def __init__(self, seed: int, modern: bool) -> None:
        super().__init__()
        self.modern = modern
        self.first, self.second = nn.LayerNorm(8), nn.LayerNorm(8)
        self.scale = nn.Parameter(torch.ones(8))
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.gate, self.down = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 8)
        randomize(self, seed)

    def norm(self, x: Tensor, which: nn.LayerNorm) -> Tensor:
        if not self.modern:
            return which(x)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.scale

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm(x, self.first)).chunk(3, dim=-1)
        q, k, v = (t.view(b, n, 2, 4).transpose(1, 2) for t in (q, k, v))
        if self.modern:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        else:
            scores = (q * 4**-0.5) @ k.transpose(-2, -1)
            mixed = F.softmax(scores.masked_fill(~keep, float("-inf")), dim=-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(b, n, 8))
        h = self.norm(x, self.second)
        h = F.silu(self.gate(h)) * self.up(h) if self.modern else F.gelu(self.up(h))
        return x + self.down(h)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = randomize(nn.Embedding(6, 8), 1), randomize(nn.Embedding(4, 8), 2)
        self.blocks = nn.ModuleList([Block(3, False), Block(4, True)])
        self.norm, self.head = randomize(nn.LayerNorm(8), 5), randomize(nn.Linear(8, 3), 6)

    def forward(self, ids: Tensor) -> Tensor:
        keep = (ids != 0)[:, None, None, :]
        x = self.token(ids) + self.position(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x, keep)
        return self.head(self.norm(x).mean(dim=1))


def affine(x: Tensor, layer: nn.Linear, epsilon: float) -> tuple[Tensor, oracle.Back]:
    return oracle.linear(x, layer.weight.detach(), layer.bias.detach(), epsilon)


def explain_block(x: Tensor, block: Block, keep: Tensor, conventions: Conventions) -> tuple[Tensor, oracle.Back]:
    """The block forwards, step by step, and then backwards."""
    epsilon = conventions.epsilon

    def norm(x: Tensor, which: nn.LayerNorm) -> tuple[Tensor, oracle.Back]:
        if not block.modern:
            return oracle.layer_norm(x, which, epsilon)
        sigma = (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x / sigma * block.scale.detach(), lambda relevance: relevance

    normed, norm_back = norm(x, block.first)
    qkv, qkv_back = affine(normed, block.qkv, epsilon)
    heads = (oracle.split_heads(t, 2) for t in qkv.chunk(3, dim=-1))
    mixed, mixed_back = oracle.attention(*heads, conventions, keep=keep)
    branch, branch_back = affine(oracle.join_heads(mixed), block.out, epsilon)
    middle, middle_back = oracle.add(x, branch, epsilon)
    normed_again, again_back = norm(middle, block.second)
    up, up_back = affine(normed_again, block.up, epsilon)
    gate, gate_back = affine(normed_again, block.gate, epsilon)
    hidden, hidden_back = oracle.gated(up, gate, F.silu, conventions) if block.modern else (F.gelu(up), None)
    down, down_back = affine(hidden, block.down, epsilon)
    out, out_back = oracle.add(middle, down, epsilon)

    def back(relevance: Tensor) -> Tensor:
        at_middle, at_down = out_back(relevance)
        at_hidden = down_back(at_down)
        if hidden_back is None:
            at_normed = up_back(at_hidden)
        else:
            at_up, at_gate = hidden_back(at_hidden)
            at_normed = up_back(at_up) + gate_back(at_gate)
        at_x, at_branch = middle_back(at_middle + again_back(at_normed))
        at_heads = mixed_back(oracle.split_heads(branch_back(at_branch), 2))
        return at_x + norm_back(qkv_back(torch.cat([oracle.join_heads(t) for t in at_heads], dim=-1)))

    return out, back


def explain_encoder(model: Encoder, ids: Tensor, seed: Tensor, conventions: Conventions) -> tuple[Tensor, Tensor]:
    """The output, and one relevance for each token."""
    epsilon, keep = conventions.epsilon, (ids != 0)[:, None, None, :]
    tokens, positions = model.token.weight.detach()[ids], model.position.weight.detach()
    x, embedding_back = oracle.add(tokens, positions, epsilon)
    x, first_back = explain_block(x, model.blocks[0], keep, conventions)
    x, second_back = explain_block(x, model.blocks[1], keep, conventions)
    normed, norm_back = oracle.layer_norm(x, model.norm, epsilon)
    pooled = normed.mean(1)
    out, head_back = affine(pooled, model.head, epsilon)
    at_pooled = head_back(seed) / stabilize(pooled, epsilon)
    at_x = norm_back(normed * at_pooled[:, None] / ids.shape[1])
    return out, embedding_back(first_back(second_back(at_x)))[0].sum(-1)


ENCODER_SEED = random(2, 3, seed=11)


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_encoder(convention: str, capture: str) -> None:
    model = Encoder().eval()
    out, expected = explain_encoder(model, IDS, ENCODER_SEED, CONVENTIONS[convention])
    torch.testing.assert_close(out, model(IDS).detach())
    close(explained(model, (IDS,), ENCODER_SEED, convention, capture=capture), expected)


def test_front_ends_agree_on_the_encoder() -> None:
    model = Encoder().eval()
    first, second = (explained(model, (IDS,), ENCODER_SEED, "attnlrp", capture=capture) for capture in FRONT_ENDS)
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


def surrogate_encoder(model: Encoder, x: Tensor, keep: Tensor, conventions: Conventions) -> Tensor:
    """What the encoder computes from its embedded tokens, with what the rules hold constant detached."""
    x = x + model.position.weight
    for block in model.blocks:

        def norm(x: Tensor, which: nn.LayerNorm, block: Block = block) -> Tensor:
            if not block.modern:
                return oracle.held_norm(x, (-1,), which.weight, which.bias, which.eps)
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5).detach() * block.scale

        q, k, v = (oracle.split_heads(t, 2) for t in block.qkv(norm(x, block.first)).chunk(3, dim=-1))
        weights = oracle.held_matmul(q / 2, k.mT).masked_fill(~keep, -math.inf).softmax(-1)
        mixed = oracle.held_matmul(weights, v, conventions.constant_attention)
        x = x + block.out(oracle.join_heads(mixed))
        h = norm(x, block.second)
        if block.modern:
            gate = oracle.passed(F.silu, block.gate(h))
            h = oracle.held_product(block.up(h), gate, conventions.halved_products)
        else:
            h = oracle.passed(F.gelu, block.up(h))
        x = x + block.down(h)
    return model.head(oracle.held_norm(x, (-1,), model.norm.weight, model.norm.bias, model.norm.eps).mean(1))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_encoder_without_a_stabilizer_is_input_times_gradient(convention: str) -> None:
    """The second source, for the steps above and for the library."""
    model, conventions = Encoder().eval(), CONVENTIONS[convention].at(0.0)
    keep = (IDS != 0)[:, None, None, :]
    (at_tokens,) = oracle.input_times_gradient(
        lambda x: surrogate_encoder(model, x, keep, conventions), (model.token.weight.detach()[IDS],), ENCODER_SEED
    )
    _, steps = explain_encoder(model, IDS, ENCODER_SEED, conventions)
    torch.testing.assert_close(steps, at_tokens.sum(-1), rtol=1e-8, atol=1e-8)
    found = explained(model, (IDS,), ENCODER_SEED, conventions.preset())
    torch.testing.assert_close(found, at_tokens.sum(-1), rtol=1e-8, atol=1e-8)


def test_balance_of_a_multi_head_attention() -> None:
    """The steps of the program account for all of the relevance that they hand on."""
    module = multi_head(bias=False)
    balance = fxlrp.compile(SelfAttention(module, need_weights=False).eval(), rules="cplrp").balance(
        TOKENS, seed=TOKENS_SEED
    )
    assert not balance.leaks(tolerance=1e-3)


@pytest.mark.parametrize("norm_first", [True, False])
def test_torchs_encoder_layer(norm_first: bool) -> None:
    """nn.TransformerEncoderLayer in eval mode, step by step."""
    layer = nn.TransformerEncoderLayer(8, 2, 6, batch_first=True, norm_first=norm_first, activation="gelu")
    randomize(layer)
    attention_back: oracle.Backs
    if norm_first:
        normed, norm_back = oracle.layer_norm(TOKENS, layer.norm1)
        branch, attention_back = oracle.multi_head_attention(normed, normed, normed, layer.self_attn, PLAIN)
        middle, middle_back = oracle.add(TOKENS, branch)
        again, again_back = oracle.layer_norm(middle, layer.norm2)
        hidden, up_back = affine(again, layer.linear1, EPSILON)
        down, down_back = affine(F.gelu(hidden), layer.linear2, EPSILON)
        out, out_back = oracle.add(middle, down)
        at_middle, at_down = out_back(TOKENS_SEED)
        at_x, at_branch = middle_back(at_middle + again_back(up_back(down_back(at_down))))
        expected = at_x + norm_back(sum(attention_back(at_branch), torch.zeros_like(TOKENS)))
    else:
        branch, attention_back = oracle.multi_head_attention(TOKENS, TOKENS, TOKENS, layer.self_attn, PLAIN)
        added, added_back = oracle.add(TOKENS, branch)
        middle, middle_back = oracle.layer_norm(added, layer.norm1)
        hidden, up_back = affine(middle, layer.linear1, EPSILON)
        down, down_back = affine(F.gelu(hidden), layer.linear2, EPSILON)
        again, again_back = oracle.add(middle, down)
        out, out_back = oracle.layer_norm(again, layer.norm2)
        at_middle, at_down = again_back(out_back(TOKENS_SEED))
        at_x, at_branch = added_back(middle_back(at_middle + up_back(down_back(at_down))))
        expected = at_x + sum(attention_back(at_branch), torch.zeros_like(TOKENS))
    torch.testing.assert_close(out, layer(TOKENS).detach())
    close(explained(layer, (TOKENS,), TOKENS_SEED), expected)


# ----------------------------------------------------------------------------------------------------
# What else transformers contain


@pytest.mark.parametrize("average", [True, False])
def test_attention_weights_are_explained(average: bool) -> None:
    """The weights that nn.MultiheadAttention returns: a mean over heads, a softmax, and queries times keys."""

    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = multi_head()

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x, x, x, average_attn_weights=average)[1]

    model = Weights()
    w_q, w_k, _ = model.module.in_proj_weight.detach().chunk(3)
    b_q, b_k, _ = model.module.in_proj_bias.detach().chunk(3)
    q, q_back = oracle.linear(TOKENS, w_q, b_q)
    k, k_back = oracle.linear(TOKENS, w_k, b_k)
    scores, scores_back = oracle.matmul(oracle.split_heads(q, 2) / 2, oracle.split_heads(k, 2).mT)
    weights, weights_back = oracle.softmax(scores)
    mean = weights.mean(1)
    seed = random(2, 4, 4) if average else random(2, 2, 4, 4)
    at_weights = weights * (seed / stabilize(mean))[:, None] / 2 if average else seed
    at_q, at_k = scores_back(weights_back(at_weights))
    expected = q_back(oracle.join_heads(at_q)) + k_back(oracle.join_heads(at_k.mT))
    close(explained(model, (TOKENS,), seed), expected)


def test_multi_head_attention_ignores_dropout() -> None:
    module = multi_head()
    _, expected = self_attention(TOKENS, TOKENS_SEED, module, PLAIN)
    module.dropout = 0.5
    for need_weights in (True, False):
        close(explained(SelfAttention(module, need_weights=need_weights), (TOKENS,), TOKENS_SEED), expected)


@pytest.mark.parametrize("option", ["add_bias_kv", "add_zero_attn"])
def test_multi_head_attention_with_another_key(option: str) -> None:
    """One more key and value, learned or zero, which take their share as constants do."""
    module = randomize(nn.MultiheadAttention(8, 2, batch_first=True, **{option: True}))
    w_q, w_k, w_v = module.in_proj_weight.detach().chunk(3)
    b_q, b_k, b_v = module.in_proj_bias.detach().chunk(3)
    (q, q_back), (k, k_back), (v, v_back) = (
        oracle.linear(TOKENS, w, b) for w, b in ((w_q, b_q), (w_k, b_k), (w_v, b_v))
    )
    if option == "add_bias_kv":
        k = torch.cat([k, module.bias_k.detach().expand(2, 1, 8)], dim=1)
        v = torch.cat([v, module.bias_v.detach().expand(2, 1, 8)], dim=1)
    else:
        k, v = (torch.cat([t, torch.zeros(2, 1, 8, dtype=t.dtype)], dim=1) for t in (k, v))
    mixed, back = oracle.attention(*(oracle.split_heads(t, 2) for t in (q, k, v)), PLAIN)
    out, out_back = oracle.linear(
        oracle.join_heads(mixed), module.out_proj.weight.detach(), module.out_proj.bias.detach()
    )
    torch.testing.assert_close(out, module(TOKENS, TOKENS, TOKENS)[0].detach())
    at_q, at_k, at_v = (oracle.join_heads(t) for t in back(oracle.split_heads(out_back(TOKENS_SEED), 2)))
    expected = q_back(at_q) + k_back(at_k[:, :4]) + v_back(at_v[:, :4])
    close(explained(SelfAttention(module), (TOKENS,), TOKENS_SEED), expected)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_attention_pooling(convention: str) -> None:
    """Tokens summed with softmax weights of their own scores: a gate, or half of it."""

    class Pooling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score = randomize(nn.Linear(6, 1), 1)

        def forward(self, x: Tensor) -> Tensor:
            return (torch.softmax(self.score(x), dim=1) * x).sum(1)

    model, conventions, seed = Pooling(), CONVENTIONS[convention], random(2, 6)
    scores, score_back = affine(X, model.score, EPSILON)
    weights, weights_back = oracle.softmax(scores, 1)
    at_product = weights * X * (seed / stabilize((weights * X).sum(1)))[:, None]
    expected = at_product
    if conventions.halved_products:
        expected = at_product / 2 + score_back(weights_back((at_product / 2).sum(-1, keepdim=True)))
    close(explained(model, (X,), seed, convention), expected)


def test_linear_attention() -> None:
    """phi(q) (phi(k)^T v) over its normalizer, which is a constant."""

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        return q @ (k.transpose(-2, -1) @ v) / (q @ k.sum(-2, keepdim=True).transpose(-2, -1))

    def mapped(x: Tensor) -> tuple[Tensor, oracle.Back]:
        y, back = oracle.add(F.elu(x), torch.ones_like(x))
        return y, lambda relevance: back(relevance)[0]

    (q, q_back), (k, k_back) = mapped(Q), mapped(K)
    inner, inner_back = oracle.matmul(k.mT, V)
    _, outer_back = oracle.matmul(q, inner)
    at_q, at_inner = outer_back(ATTENTION_SEED)
    at_k, at_v = inner_back(at_inner)
    close(of_three(function, (Q, K, V), ATTENTION_SEED), (q_back(at_q), k_back(at_k.mT), at_v))


def test_cosine_attention() -> None:
    """Swin's second version: normalized queries and keys, and a learned scale that is clamped."""
    scale = nn.Parameter(torch.tensor([[[0.5]], [[9.0]]], dtype=torch.float64))

    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = scale

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
            return (scores * torch.clamp(self.scale, max=1.5).exp()).softmax(-1) @ v

    factor = scale.detach().clamp(max=1.5).exp()
    scores, scores_back = oracle.matmul(F.normalize(Q, dim=-1), F.normalize(K, dim=-1).mT)
    weights, weights_back = oracle.softmax(scores * factor)
    at_weights, at_v = oracle.matmul(weights, V)[1](ATTENTION_SEED)
    at_q, at_k = scores_back(weights_back(at_weights))
    close(explained(Cosine(), (Q, K, V), ATTENTION_SEED), (at_q, at_k.mT, at_v))


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_class_token(capture: str) -> None:
    """As vision transformers do: a parameter is put before the tokens, positions are added, its output is taken."""

    class ClassToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.positions = nn.Parameter(random(1, 1, 8)), nn.Parameter(random(1, 5, 8, seed=1))
            self.module, self.head = multi_head(), randomize(nn.Linear(8, 3), 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
            return self.head(self.module(x, x, x, need_weights=False)[0][:, 0])

    model, seed = ClassToken(), random(2, 3)
    x, back = oracle.add(torch.cat([model.token.detach().expand(2, 1, 8), TOKENS], 1), model.positions.detach())
    mixed, _ = self_attention(x, x, model.module, PLAIN)
    at_mixed = torch.zeros_like(mixed)
    at_mixed[:, 0] = affine(mixed[:, 0], model.head, EPSILON)[1](seed)
    _, at_sum = self_attention(x, at_mixed, model.module, PLAIN)
    close(explained(model, (TOKENS,), seed, capture=capture), back(at_sum)[0][:, 1:])


class Llama(nn.Module):
    """Rotary positions, grouped queries, RMS norms by hand, a gated MLP, a causal mask and tied embeddings."""

    def __init__(self, masked: str) -> None:
        super().__init__()
        self.masked = masked
        self.token = randomize(nn.Embedding(6, 12), 1)
        self.q, self.k = randomize(nn.Linear(12, 24, bias=False), 2), randomize(nn.Linear(12, 12, bias=False), 3)
        self.v, self.o = randomize(nn.Linear(12, 12, bias=False), 4), randomize(nn.Linear(24, 12, bias=False), 5)
        self.gate, self.up = randomize(nn.Linear(12, 7, bias=False), 6), randomize(nn.Linear(12, 7, bias=False), 7)
        self.down = randomize(nn.Linear(7, 12, bias=False), 8)
        self.first, self.second = nn.Parameter(random(12, seed=3)), nn.Parameter(random(12, seed=4))
        self.register_buffer("frequencies", torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64))
        self.register_buffer("causal", torch.ones(8, 8).tril().view(1, 1, 8, 8))

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.masked == "is_causal":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
        n = q.size(2)
        scores = (q @ k.transpose(2, 3)) * q.size(-1) ** -0.5
        return scores.masked_fill(self.causal[:, :, :n, :n] == 0, float("-inf")).softmax(dim=-1) @ v

    def mlp(self, x: Tensor) -> Tensor:
        return F.silu(self.gate(x)) * self.up(x)

    def forward(self, ids: Tensor) -> Tensor:
        return self.run(self.token(ids))

    def run(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        angles = torch.outer(torch.arange(n, dtype=x.dtype, device=x.device), self.frequencies)
        angles = torch.cat([angles, angles], dim=-1)
        h = self.norm(x, self.first)
        q = self.q(h).view(b, n, 4, 6).transpose(1, 2)
        k = self.k(h).view(b, n, 2, 6).transpose(1, 2)
        v = self.v(h).view(b, n, 2, 6).transpose(1, 2)
        q, k = (t * angles.cos() + rotate_half(t) * angles.sin() for t in (q, k))
        x = x + self.o(self.mix(q, k, v).transpose(1, 2).reshape(b, n, 24))
        return F.linear(x + self.down(self.mlp(self.norm(x, self.second))), self.token.weight)


class HeldLlama(Llama):
    """Its surrogate, of embedded tokens."""

    halved = False

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6).detach())

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, (k, v) = q.shape[2], (t.repeat_interleave(2, 1) for t in (k, v))
        scores = oracle.held_matmul(q, k.mT) * 6**-0.5
        weights = scores.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -math.inf).softmax(-1)
        return oracle.held_matmul(weights, v)

    def mlp(self, x: Tensor) -> Tensor:
        return oracle.held_product(self.up(x), oracle.passed(F.silu, self.gate(x)), self.halved)


@pytest.mark.parametrize(
    ("masked", "capture"), [("is_causal", "symbolic"), ("buffer", "symbolic"), ("is_causal", "export")]
)
@pytest.mark.parametrize("convention", ["epsilon", "attnlrp"])
def test_language_model(convention: str, masked: str, capture: str) -> None:
    """LRP-0 of a logit of the last token is input times gradient of the surrogate, for each token."""
    conventions = CONVENTIONS[convention].at(0.0)
    model, held = Llama(masked).eval(), HeldLlama(masked)
    held.halved = conventions.halved_products
    x = model.token.weight.detach()[IDS]
    logits = model(IDS).detach()
    torch.testing.assert_close(held.run(x).detach(), logits)
    start = torch.zeros_like(logits)
    start[:, 3, 2] = logits[:, 3, 2]
    (at_tokens,) = oracle.input_times_gradient(held.run, (x,), start)
    explain = fxlrp.compile(model, rules=conventions.preset(), capture=capture)
    found = explain(IDS, target=(3, 2))
    torch.testing.assert_close(found, at_tokens.sum(-1), rtol=1e-8, atol=1e-9)


def test_torchs_encoder_with_padding() -> None:
    """nn.TransformerEncoder with a padding mask, on its slow path: what padding holds does not matter."""
    layer = nn.TransformerEncoderLayer(8, 2, 6, batch_first=True)
    model = randomize(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x, src_key_padding_mask=PADDED)

    def held_layer(layer: nn.TransformerEncoderLayer, x: Tensor) -> Tensor:
        q, k, v = (
            oracle.split_heads(t, 2)
            for t in F.linear(x, layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias).chunk(3, -1)
        )
        weights = oracle.held_matmul(q / 2, k.mT).masked_fill(PADDED[:, None, None], -math.inf).softmax(-1)
        x = x + layer.self_attn.out_proj(oracle.join_heads(oracle.held_matmul(weights, v)))
        x = oracle.held_norm(x, (-1,), layer.norm1.weight, layer.norm1.bias, 1e-5)
        x = x + layer.linear2(layer.linear1(x).relu())
        return oracle.held_norm(x, (-1,), layer.norm2.weight, layer.norm2.bias, 1e-5)

    (expected,) = oracle.input_times_gradient(
        lambda x: held_layer(model.layers[1], held_layer(model.layers[0], x)), (TOKENS,), TOKENS_SEED
    )
    for capture in ("auto", "export"):
        found = explained(Padded(), (TOKENS,), TOKENS_SEED, presets.epsilon(epsilon=0), capture=capture)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_torchs_decoder_layer() -> None:
    """Self-attention under a causal mask, attention to a memory and an MLP; both inputs are explained."""
    layer = randomize(nn.TransformerDecoderLayer(8, 2, 6, batch_first=True))
    memory = random(2, 5, 8, seed=3)

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            return self.layer(x, memory, tgt_mask=FIRST, tgt_is_causal=True)

    def held_attention(module: nn.MultiheadAttention, x: Tensor, memory: Tensor, keep: Tensor | None) -> Tensor:
        w, b = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
        sources = (x, memory, memory)
        q, k, v = (oracle.split_heads(F.linear(t, w[i], b[i]), 2) for i, t in enumerate(sources))
        scores = oracle.held_matmul(q / 2, k.mT)
        scores = scores if keep is None else scores.masked_fill(~keep, -math.inf)
        return module.out_proj(oracle.join_heads(oracle.held_matmul(scores.softmax(-1), v)))

    def surrogate(x: Tensor, memory: Tensor) -> Tensor:
        def norm(x: Tensor, which: nn.LayerNorm) -> Tensor:
            return oracle.held_norm(x, (-1,), which.weight, which.bias, which.eps)

        x = norm(x + held_attention(layer.self_attn, x, x, FIRST == 0), layer.norm1)
        x = norm(x + held_attention(layer.multihead_attn, x, memory, None), layer.norm2)
        return norm(x + layer.linear2(layer.linear1(x).relu()), layer.norm3)

    torch.testing.assert_close(surrogate(TOKENS, memory), layer(TOKENS, memory, tgt_mask=FIRST))
    expected = oracle.input_times_gradient(surrogate, (TOKENS, memory), TOKENS_SEED)
    found = explained(Decoder(), (TOKENS, memory), TOKENS_SEED, presets.epsilon(epsilon=0))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


# ----------------------------------------------------------------------------------------------------
# Spellings: the same formula, whatever the model calls it

WEIGHTED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cast": lambda w, v: w.to(v.dtype) @ v,
    "type_as": lambda w, v: torch.matmul(w.type_as(v), v),
    "dropout": lambda w, v: F.dropout(w, 0.5, training=False) @ v,
    "contiguous views": lambda w, v: (w.reshape(4, 3, 5).contiguous() @ v.reshape(4, 5, 6)).view(2, 2, 3, 6),
    "values first": lambda w, v: (v.transpose(-2, -1) @ w.transpose(-2, -1)).transpose(-2, -1),
    "einsum": lambda w, v: torch.einsum("bhqk,bhkd->bhqd", w, v),
    "einsum, values first": lambda w, v: torch.einsum("bhkd,bhqk->bhqd", v, w),
    "einsum of moved values": lambda w, v: torch.einsum("bhqk,bkhd->bqhd", w, v.transpose(1, 2)).transpose(1, 2),
    "nan_to_num": lambda w, v: torch.nan_to_num(w) @ v,
    "masked again": lambda w, v: w.masked_fill(torch.zeros(3, 5, dtype=torch.bool), 0.0) @ v,
    "scaled": lambda w, v: (w * 2.0) @ (v / 2.0),
    "joined": lambda w, v: torch.cat([w[:, :1], w[:, 1:]], dim=1) @ v,
    "head by head": lambda w, v: torch.stack([w[:, i] @ v[:, i] for i in range(2)], dim=1),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_values_take_all_under_cp_lrp(name: str) -> None:
    """Weights from a softmax are constants, however they get to the product."""
    expected = oracle.attention(Q, K, V, CONVENTIONS["cplrp"])[1](ATTENTION_SEED)
    found = of_three(
        lambda q, k, v: WEIGHTED[name](torch.softmax((q / 2) @ k.transpose(-2, -1), dim=-1), v),
        (Q, K, V),
        ATTENTION_SEED,
        "cplrp",
    )
    close(found, expected)


@pytest.mark.parametrize("name", ["dropout", "head by head"])
def test_values_take_all_under_cp_lrp_through_export(name: str) -> None:
    expected = oracle.attention(Q, K, V, CONVENTIONS["cplrp"])[1](ATTENTION_SEED)
    found = of_three(
        lambda q, k, v: WEIGHTED[name](torch.softmax((q / 2) @ k.transpose(-2, -1), dim=-1), v),
        (Q, K, V),
        ATTENTION_SEED,
        "cplrp",
        capture="export",
    )
    close(found, expected)


STATISTICS: dict[str, Function] = {
    "Gemma": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1.0 + WEIGHT),
    "T5": lambda x: WEIGHT * (x * torch.rsqrt(x.to(torch.float64).pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype),
    "ScaleNorm": lambda x: 2.0 * x / torch.norm(x, dim=-1, keepdim=True).clamp(min=1e-5),
    "vector_norm": lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True),
    "F.normalize": lambda x: F.normalize(x, dim=-1) * 6**0.5 * WEIGHT,
    "sum of squares": lambda x: x / (x * x).sum(-1, keepdim=True).sqrt(),
    "reciprocal": lambda x: x * (x.square().mean(-1, keepdim=True) + 1e-6).sqrt().reciprocal(),
    "one over": lambda x: x * (1.0 / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()),
    "largest": lambda x: x / x.abs().amax(dim=-1, keepdim=True),
    "pixel norm": lambda x: x * torch.rsqrt(torch.mean(x**2, dim=1, keepdim=True) + 1e-8),
    "response norm": lambda x: x * (x.norm(dim=1, keepdim=True) / (x.norm(dim=1, keepdim=True).mean(-1, True) + 1e-6)),
    "standard deviation": lambda x: x / (x.std(-1, keepdim=True) + 1e-6),
}


@pytest.mark.parametrize("preset", ["epsilon", "attnlrp"])
@pytest.mark.parametrize("name", STATISTICS)
def test_statistic_takes_nothing(name: str, preset: str) -> None:
    """A factor or divisor that is a statistic of the values is a constant, also where products are halved."""
    close(of_one(STATISTICS[name], X, SEED, preset), SEED)


STANDARDIZED: dict[str, tuple[Function, Function]] = {
    "standard deviation": (
        lambda x: WEIGHT * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) + BIAS,
        lambda x: x.std(-1, keepdim=True) + 1e-6,
    ),
    "var": (
        lambda x: WEIGHT * ((x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6).sqrt()) + BIAS,
        lambda x: (x.var(-1, keepdim=True) + 1e-6).sqrt(),
    ),
    "var_mean": (
        lambda x: (
            (x - torch.var_mean(x, -1, unbiased=False, keepdim=True)[1])
            * torch.rsqrt(torch.var_mean(x, -1, unbiased=False, keepdim=True)[0] + 1e-6)
            * WEIGHT
            + BIAS
        ),
        lambda x: (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt(),
    ),
    "mean of squares minus square of mean": (
        lambda x: (
            (x - x.mean(-1, keepdim=True))
            / torch.sqrt((x**2).mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2 + 1e-6)
            * WEIGHT
            + BIAS
        ),
        lambda x: (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt(),
    ),
}


@pytest.mark.parametrize("preset", ["epsilon", "attnlrp"])
@pytest.mark.parametrize("name", STANDARDIZED)
def test_standardization_by_hand_without_a_stabilizer(name: str, preset: str) -> None:
    function, statistic = STANDARDIZED[name]
    sigma = statistic(X)
    expected = by_jacobian(lambda x: WEIGHT * (x - x.mean(-1, keepdim=True)) / sigma + BIAS, X, SEED, 0.0)
    found = of_one(function, X, SEED, CONVENTIONS[preset].at(0.0).preset())
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_two_embeddings_of_inputs(capture: str) -> None:
    """Tokens and their types share the sum with the positions, and each has relevance of its own."""

    class Bert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.word, self.kind = randomize(nn.Embedding(6, 5), 1), randomize(nn.Embedding(2, 5), 2)
            self.position, self.norm = randomize(nn.Embedding(4, 5), 3), randomize(nn.LayerNorm(5), 4)
            self.register_buffer("ids", torch.arange(4)[None])

        def forward(self, words: Tensor, kinds: Tensor) -> Tensor:
            x = self.word(words) * 5**0.5 + self.kind(kinds)
            return self.norm(x + self.position(self.ids[:, : words.size(1)]))

    model, kinds, seed = Bert(), torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]]), random(2, 4, 5)
    words, types = model.word.weight.detach()[IDS] * 5**0.5, model.kind.weight.detach()[kinds]
    both, both_back = oracle.add(words, types)
    x, back = oracle.add(both, model.position.weight.detach())
    at_words, at_types = both_back(back(oracle.layer_norm(x, model.norm)[1](seed))[0])
    close(explained(model, (IDS, kinds), seed, capture=capture), (at_words.sum(-1), at_types.sum(-1)))


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_embedding_of_what_only_the_shape_decides(capture: str) -> None:
    """Types that default to zeros are as constant as positions."""

    class Bert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.word, self.kind = randomize(nn.Embedding(6, 5), 1), randomize(nn.Embedding(2, 5), 2)

        def forward(self, words: Tensor) -> Tensor:
            kinds = torch.zeros(words.shape, dtype=torch.long, device=words.device)
            return self.word(words) + self.kind(torch.zeros_like(words)) + self.kind(kinds)

    model, seed = Bert(), random(2, 4, 5)
    words, kind = model.word.weight.detach()[IDS], model.kind.weight.detach()[0]
    both, both_back = oracle.add(words, kind)
    expected = both_back(both * seed / stabilize(both + kind))[0].sum(-1)
    close(explained(model, (IDS,), seed, capture=capture), expected)


POOLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum over count": lambda x, mask: (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True),
    "expanded": lambda x, mask: (
        torch.sum(x * mask.unsqueeze(-1).expand(x.size()).to(x.dtype), 1) / mask.sum(1, keepdim=True).clamp(min=1)
    ),
    "masked_fill": lambda x, mask: x.masked_fill(mask.unsqueeze(-1) == 0, 0.0).sum(1) / mask.sum(1)[:, None],
    "matmul": lambda x, mask: (mask.to(x.dtype)[:, None] @ x)[:, 0] / mask.sum(1, keepdim=True),
}


@pytest.mark.parametrize("capture", ["auto", "export"])
@pytest.mark.parametrize("name", POOLS)
def test_masked_mean(name: str, capture: str) -> None:
    """Tokens share in proportion; padding has nothing, and the count is a constant."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = randomize(nn.Embedding(6, 5), 1)

        def forward(self, ids: Tensor) -> Tensor:
            return POOLS[name](self.token(ids), (ids != 0).to(torch.long))

    model, seed = Masked(), random(2, 5)
    x = model.token.weight.detach()[IDS] * (IDS != 0)[..., None]
    expected = (x * (seed / stabilize(x.sum(1)))[:, None]).sum(-1)
    close(explained(model, (IDS,), seed, capture=capture), expected)


LAST: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "arange": lambda x, last: x[torch.arange(2), last],
    "arange of the batch": lambda x, last: x[torch.arange(x.shape[0], device=x.device), last],
    "gather": lambda x, last: x.gather(1, last[:, None, None].expand(-1, 1, x.size(-1))).squeeze(1),
    "argmax": lambda x, last: x[torch.arange(x.shape[0]), (torch.arange(4)[None] == last[:, None]).int().argmax(-1)],
}


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("name", LAST)
def test_last_token_of_each_sample(name: str, capture: str) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.head = randomize(nn.Embedding(6, 5), 1), randomize(nn.Linear(5, 3), 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(LAST[name](self.token(ids), (ids != 0).sum(1) - 1))

    model, seed = Last(), random(2, 3)
    last = (IDS != 0).sum(1) - 1
    x = model.token.weight.detach()[IDS]
    expected = torch.zeros(2, 4, dtype=torch.float64)
    expected[torch.arange(2), last] = affine(x[torch.arange(2), last], model.head, EPSILON)[1](seed).sum(-1)
    close(explained(model, (IDS,), seed, capture=capture), expected)


SPELLED: dict[str, Function] = {
    "by name": lambda q, k, v: F.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=KEEP),
    "by position": lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, KEEP, 0.0, False),
    "in three dimensions": lambda q, k, v: F.scaled_dot_product_attention(
        q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), KEEP
    ).unflatten(0, (2, 2)),
    "moved": lambda q, k, v: F.scaled_dot_product_attention(
        q.transpose(1, 2).transpose(1, 2), k.contiguous(), v.clone(), attn_mask=KEEP[None, None]
    ),
    "scores masked in place": lambda q, k, v: (
        ((q * 0.5) @ k.transpose(-1, -2)).masked_fill_(~KEEP, -math.inf).softmax(-1) @ v
    ),
    "einsum": lambda q, k, v: torch.einsum(
        "bhqk,bhkd->bhqd",
        torch.einsum("bhqd,bhkd->bhqk", q * 0.5, k).masked_fill(~KEEP, -math.inf).softmax(dim=-1),
        v,
    ),
    "where": lambda q, k, v: torch.where(KEEP, (q * 0.5) @ k.mT, -math.inf).softmax(-1) @ v,
    "bmm": lambda q, k, v: torch.bmm(
        torch.bmm(q.reshape(4, 3, 4) * 0.5, k.reshape(4, 5, 4).transpose(1, 2))
        .masked_fill(~KEEP, -math.inf)
        .softmax(-1),
        v.reshape(4, 5, 6),
    ).view(2, 2, 3, 6),
    "index of a buffer": lambda q, k, v: (
        ((q * 0.5) @ k.mT).masked_fill(KEEP.view(1, 1, 3, 5)[:, :, :3, :5] == 0, float("-inf")).softmax(-1) @ v
    ),
}


@pytest.mark.parametrize("convention", ["epsilon", "cplrp"])
@pytest.mark.parametrize("name", SPELLED)
def test_masked_attention_in_every_spelling(name: str, convention: str) -> None:
    expected = oracle.attention(Q, K, V, CONVENTIONS[convention], keep=KEEP)[1](ATTENTION_SEED)
    close(of_three(SPELLED[name], (Q, K, V), ATTENTION_SEED, convention), expected)


@pytest.mark.parametrize("name", ["where", "bmm", "scores masked in place"])
def test_masked_attention_in_every_spelling_through_export(name: str) -> None:
    expected = oracle.attention(Q, K, V, PLAIN, keep=KEEP)[1](ATTENTION_SEED)
    close(of_three(SPELLED[name], (Q, K, V), ATTENTION_SEED, capture="export"), expected)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("options", [{"optimize": False}, {"checkpoint": True}], ids=str)
def test_options_of_the_compiler_change_nothing(options: dict[str, Any], convention: str) -> None:
    model = Encoder().eval()
    _, expected = explain_encoder(model, IDS, ENCODER_SEED, CONVENTIONS[convention])
    close(explained(model, (IDS,), ENCODER_SEED, convention, **options), expected)


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_one_explainer_for_other_lengths(capture: str) -> None:
    """Batch size and length are left open."""
    model = Encoder().eval()
    explain = fxlrp.compile(model, rules="attnlrp", capture=capture, example_inputs=IDS)
    for ids in (IDS, torch.tensor([[2, 4, 0], [1, 1, 5], [3, 3, 3]])):
        short = Encoder().eval()
        short.position.weight = nn.Parameter(model.position.weight[: ids.shape[1]].detach())
        seed = random(len(ids), 3, seed=11)
        _, expected = explain_encoder(short, ids, seed, CONVENTIONS["attnlrp"])
        close(explain(ids, seed=seed), expected)


@pytest.mark.parametrize("epsilon", [0.1, 1e-9])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_epsilon_of_a_preset(convention: str, epsilon: float) -> None:
    """It is that of every sum, product and norm."""
    model, conventions = Encoder().eval(), CONVENTIONS[convention].at(epsilon)
    _, expected = explain_encoder(model, IDS, ENCODER_SEED, conventions)
    torch.testing.assert_close(
        explained(model, (IDS,), ENCODER_SEED, conventions.preset()), expected, rtol=1e-9, atol=1e-10
    )
