"""Matrix products and einsum against closed forms, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import transformer_oracles as oracle
from fxlrp import presets, rules
from helpers import FRONT_ENDS, Function, assert_close, epsilon_with, explained, of_one, of_two
from oracles import EPSILON, One, Three, Two, random, stabilize
from transformer_oracles import CONVENTIONS, by_jacobian

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
    assert_close(of_two(PRODUCTS[name], A, B, PRODUCT_SEED), oracle.matmul(A, B)[1](PRODUCT_SEED))


def test_product_added_to_a_constant() -> None:
    """torch.baddbmm and torch.addbmm's kin are a product and a sum."""
    bias = random(2, 3, 5, seed=4)
    product, back = oracle.matmul(A, B)
    expected = back(2 * product * PRODUCT_SEED / stabilize(2 * product + 3 * bias))
    found = of_two(lambda a, b: torch.baddbmm(bias, a, b, beta=3, alpha=2), A, B, PRODUCT_SEED)
    assert_close(found, expected)


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("preset", ["attnlrp", "cplrp"])
def test_product_of_two_signals_under_presets(preset: str, capture: str) -> None:
    """Neither factor is attention, so that CP-LRP shares equally too."""
    expected = oracle.matmul(A, B)[1](PRODUCT_SEED)
    assert_close(of_two(lambda a, b: a @ b, A, B, PRODUCT_SEED, preset, capture=capture), expected)


@pytest.mark.parametrize(
    ("left", "right"),
    [((2, 3, 4), (4, 5)), ((3, 4), (2, 4, 5)), ((2, 1, 3, 4), (3, 4, 2)), ((2, 4), (4, 3)), ((1, 3, 4), (2, 4, 2))],
    ids=str,
)
def test_product_of_broadcast_factors(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = random(*left, seed=1), random(*right, seed=2)
    seed = random(*(a @ b).shape, seed=3)
    assert_close(of_two(lambda a, b: a @ b, a, b, seed), oracle.matmul(a, b)[1](seed))


def test_product_with_vectors() -> None:
    a, v, w = random(3, 4, seed=1), random(4, seed=2), random(3, seed=3)
    at_a, at_v = oracle.matmul(a, v[:, None])[1](w[:, None])
    assert_close(of_two(lambda a, v: a @ v, a, v, w), (at_a, at_v[:, 0]))
    at_w, at_a = oracle.matmul(w[None], a)[1](v[None])
    assert_close(of_two(lambda w, a: torch.matmul(w, a), w, a, v), (at_w[0], at_a))


@pytest.mark.parametrize("preset", CONVENTIONS)
def test_product_with_a_constant(preset: str) -> None:
    """A linear map: all of it to the factor that depends on the input."""
    ratio = PRODUCT_SEED / stabilize(A @ B)
    assert_close(of_one(lambda a: a @ B, A, PRODUCT_SEED, preset), A * (ratio @ B.mT))
    assert_close(of_one(lambda b: torch.bmm(A, b), B, PRODUCT_SEED, preset), B * (A.mT @ ratio))
    assert_close(of_one(lambda b: torch.einsum("bij,bjk->bik", A, b), B, PRODUCT_SEED, preset), B * (A.mT @ ratio))


def test_product_of_a_value_with_itself() -> None:
    """Both halves meet."""
    seed = random(2, 3, 3, seed=4)
    at_left, at_right = oracle.matmul(A, A.mT)[1](seed)
    assert_close(of_one(lambda a: a @ a.transpose(1, 2), A, seed), at_left + at_right.mT)
    assert_close(of_one(lambda a: torch.einsum("bid,bjd->bij", a, a), A, seed), at_left + at_right.mT)


def test_signal_takes_all_of_a_product() -> None:
    """Of attention weights and values the values take all, on whichever side they stand."""
    pairs = epsilon_with(("matmul", rules.SignalTakeAll()))
    weights = A.softmax(-1)
    at_b = B * (weights.mT @ (PRODUCT_SEED / stabilize(weights @ B)))
    assert_close(of_two(lambda a, b: a.softmax(-1) @ b, A, B, PRODUCT_SEED, pairs), (torch.zeros_like(A), at_b))
    flipped = of_two(lambda a, b: (b.mT @ a.softmax(-1).mT).mT, A, B, PRODUCT_SEED, pairs)
    assert_close(flipped, (torch.zeros_like(A), at_b))


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
    # Diagonals.
    "ii->i": ((4, 4),),
    "ii": ((4, 4),),
    "iii->i": ((3, 3, 3),),
    "iijj->ij": ((2, 2, 3, 3),),
    "...ii": ((2, 3, 3),),
    "i...i->...": ((3, 2, 3),),
    "bii,bi->bi": ((2, 3, 3), (2, 3)),
    "iij,jk->ik": ((2, 2, 3), (3, 4)),
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
    assert_close(found if len(operands) > 1 else (found,), tuple(expected))


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("equation", ["bqd,bkd->bqk", "bqd,bkd,bke->bqe", "...d,de->...e", "iij,jk->ik"])
def test_einsum_through_both_front_ends(equation: str, capture: str) -> None:
    operands = tuple(random(*shape, seed=i) for i, shape in enumerate(EINSUMS.get(equation, ((2, 3, 4), (2, 5, 4)))))
    seed = random(*torch.einsum(equation, *operands).shape, seed=9)
    model = {2: Two, 3: Three}[len(operands)](lambda *each: torch.einsum(equation, *each))
    assert_close(
        explained(model, operands, seed, capture=capture), tuple(contracted(equation, operands, seed, len(operands)))
    )


@pytest.mark.parametrize("equation", ["bi,oi->bo", "...i,oi->...o", "bqd,bkd->bqk", "bi,bi->bi"])
def test_einsum_with_a_constant(equation: str) -> None:
    shapes = {"bi,oi->bo": ((2, 3), (4, 3)), "...i,oi->...o": ((2, 5, 3), (4, 3))}.get(
        equation, EINSUMS.get(equation, ((2, 3, 4), (2, 5, 4)))
    )
    x, constant = (random(*shape, seed=i) for i, shape in enumerate(shapes))
    seed = random(*torch.einsum(equation, x, constant).shape, seed=9)
    (expected,) = contracted(equation, (x, constant), seed, 1)
    assert_close(of_one(lambda x: torch.einsum(equation, x, constant), x, seed), expected)


def test_einsum_of_two_inputs_and_a_constant() -> None:
    """A bilinear form: the matrix takes nothing, the two vectors half each."""
    a, b, matrix, seed = random(2, 3), random(2, 4, seed=1), random(3, 4, seed=2), random(2, seed=3)
    ratio = (seed / stabilize(2 * torch.einsum("bi,ij,bj->b", a, matrix, b)))[:, None]
    found = of_two(lambda a, b: torch.einsum("bi,ij,bj->b", a, matrix, b), a, b, seed)
    assert_close(found, (a * ratio * (b @ matrix.T), b * ratio * (a @ matrix)))


def test_einsum_that_moves_only() -> None:
    x, seed = random(2, 3, 4), random(2, 4, 3, seed=1)
    assert_close(of_one(lambda x: torch.einsum("bij->bji", x), x, seed, presets.epsilon(epsilon=0)), seed.mT)
