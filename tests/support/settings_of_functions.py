"""The parameters with which functions, losses and composite operations are tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from places import CUBE, Arguments, M, V, each, fixed, of, only, two

POSITIVE, UNIT, INSIDE = V(4, 6, domain="positive"), V(4, 6, domain="unit"), V(4, 6, domain="inside")
CLASSES = torch.tensor([0, 3, 5, 1])
SIGNS = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
REDUCTIONS: list[Arguments] = [dict(reduction="none"), dict(reduction="sum"), {}]


def _elementary() -> Iterator[tuple[str, list[Arguments]]]:
    everywhere = "asinh cosh sinh ceil floor trunc frac sign sgn sinc angle erfc i0"
    everywhere += " special_i0e special_i1 special_i1e special_ndtr special_log_ndtr special_erfcx"
    for name in everywhere.split():
        yield name, of(M, {"input": CUBE})
    for name in ("acos", "asin", "atanh", "erfinv"):
        yield name, of(INSIDE, {"input": V(3, domain="inside")})
    yield "acosh", of(V(4, 6, domain="above one"), {"input": V(3, domain="above one")})
    for name in ("digamma", "lgamma", "special_entr"):
        yield name, of(POSITIVE, {"input": V(3, domain="positive")})
    yield "special_ndtri", of(UNIT, {"input": V(3, domain="unit")})
    yield "mvlgamma", only(V(4, 6, domain="above one"), *each("p", 1, 2))
    yield "polygamma", [dict(n=n, input=POSITIVE) for n in (0, 1, 2)]
    yield "round", of(M, *each("decimals", 1, -1))
    yield "logit", [*of(UNIT), *only(M, dict(eps=0.1))]
    yield "renorm", only(M, dict(p=2, dim=0, maxnorm=1.0), dict(p=1, dim=1, maxnorm=2.0), dict(p=2, dim=0, maxnorm=99))


def _of_two() -> Iterator[tuple[str, list[Arguments]]]:
    for name in ("atan2", "hypot", "copysign"):
        # Of two zeros the derivatives do not exist.
        yield name, [two(M, POSITIVE), two(M, V(6, domain="positive")), two(M, fixed(6)), two(V(4, 1), fixed(1, 6))]
    for name in ("fmod", "remainder"):
        yield name, [two(M, POSITIVE), two(M, 0.7), two(M, fixed(6) + 2)]
    modes, divisors = ("floor", "trunc"), (POSITIVE, fixed(6) + 2)
    yield "rounded_quotient", [two(M, each, rounding_mode=mode) for mode in modes for each in divisors]
    yield "ldexp", [two(M, M), two(M, torch.tensor([1, -1, 2, 0, 1, 3])), two(M, fixed(6))]
    yield "xlogy", [two(M, POSITIVE), two(M, 2.0), two(fixed(4, 6), POSITIVE)]
    yield "special_xlog1py", [two(M, POSITIVE), two(M, 2.0), two(fixed(4, 6), POSITIVE)]
    yield "polar", [dict(abs=POSITIVE, angle=M), dict(abs=POSITIVE, angle=fixed(4, 6))]
    for name in ("float_power", "power"):
        exponents: list[Any] = [M, fixed(6), V(6)]
        yield name, [dict(input=POSITIVE, exponent=exponent) for exponent in exponents]


def _losses() -> Iterator[tuple[str, list[Arguments]]]:
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
        yield name, [dict(input=M, target=target, **one) for one in REDUCTIONS for target in (M, fixed(4, 6))]
    for name, place in (("binary_cross_entropy", UNIT), ("binary_cross_entropy_with_logits", M)):
        weight = fixed(4, 6).abs()
        chosen = [*REDUCTIONS, dict(weight=weight, reduction="none")]
        yield (
            name,
            [dict(input=place, target=fixed(4, 6).sigmoid(), **one) for one in chosen]
            + [dict(input=place, target=UNIT, reduction="none")],
        )
    divergences: list[Arguments] = [*REDUCTIONS, dict(reduction="batchmean"), dict(reduction="none", log_target=True)]
    yield "kl_div", [dict(input=M, target=POSITIVE, **one) for one in divergences]
    yield "gaussian_nll_loss", [dict(input=M, target=M, var=POSITIVE, **one) for one in [*REDUCTIONS, dict(full=True)]]
    signs = SIGNS[:, None].expand(4, 6).contiguous()
    yield "soft_margin_loss", [dict(input=M, target=signs, **one) for one in REDUCTIONS]
    yield "hinge_embedding_loss", [dict(input=M, target=signs, **one) for one in [*REDUCTIONS, dict(margin=0.3)]]
    ranked: list[Arguments] = [*REDUCTIONS, dict(reduction="none", margin=0.3)]
    yield "margin_ranking_loss", [dict(input1=V(4), input2=V(4), target=SIGNS, **one) for one in ranked]
    counts: list[Arguments] = [*REDUCTIONS, dict(full=True, reduction="none")]
    yield (
        "poisson_nll_loss",
        [dict(input=M, target=POSITIVE, **one) for one in counts]
        + [dict(input=POSITIVE, target=POSITIVE, log_input=False, reduction="none")],
    )
    yield "multi_margin_loss", only(M, *(dict(target=CLASSES, **one) for one in REDUCTIONS), dict(target=CLASSES, p=2))
    several = torch.tensor([[3, 0, -1, 1, 1, 1]] * 4)
    yield "multilabel_margin_loss", only(M, *(dict(target=several, **one) for one in REDUCTIONS))
    labels = (fixed(4, 6) > 0).double()
    yield "multilabel_soft_margin_loss", only(M, *(dict(target=labels, **one) for one in REDUCTIONS))
    yield "cosine_embedding_loss", [dict(input1=M, input2=M, target=SIGNS, **one) for one in REDUCTIONS]
    sequence = dict(targets=torch.tensor([[1, 2], [3, 1]]), input_lengths=(5, 4), target_lengths=(2, 1))
    likely = V(5, 2, 4, domain="log probabilities")
    yield "ctc_loss", [dict(log_probs=likely, **sequence, **one) for one in REDUCTIONS]
    triplet = dict(anchor=M, positive=M, negative=M)
    yield "triplet_margin_loss", [{**triplet, **one} for one in [*REDUCTIONS, dict(swap=True, reduction="none")]]
    yield (
        "cross_entropy",
        only(
            M,
            dict(target=CLASSES),
            dict(target=CLASSES, reduction="none", ignore_index=3),
            dict(target=fixed(4, 6).abs(), label_smoothing=0.1, reduction="sum"),
        ),
    )


def _products_and_norms() -> Iterator[tuple[str, list[Arguments]]]:
    yield "prod", of(M, *each("dim", 1, 0), dict(dim=1, keepdim=True))
    yield "cumprod", only(M, *each("dim", 0, 1))
    yield "linalg_vander", [dict(x=V(3)), dict(x=V(2, 3), N=4)]
    index = torch.tensor([[0, 1, 2, 0, 1, 2], [2, 2, 1, 0, 0, 1]])
    for name, at in (("scatter_product", index), ("index_product", torch.tensor([1, 1]))):
        whole = dict(input=V(3, 6), dim=0, index=at, source=V(2, 6))
        yield name, [whole, {**whole, "include_self": False}]
    counts, weights = torch.tensor([1, 2, 1, 3, 1, 1]), fixed(6).abs()
    yield (
        "cov",
        of(M, {}, dict(correction=0), dict(fweights=counts), dict(fweights=counts, aweights=weights)) + only(V(5)),
    )
    orders = (2.0, 1.0, float("inf"), 3.0)
    yield "cdist", [dict(x1=V(2, 3), x2=V(4, 3), p=p) for p in orders] + [dict(x1=V(2, 2, 3), x2=fixed(2, 4, 3))]
    yield "pdist", of(V(4, 3), *each("p", 1.0, 3.0))
    norms: list[Arguments] = [{}, dict(ord=1, dim=1), dict(ord="fro"), dict(ord="nuc"), dict(ord=2, dim=(0, 1))]
    yield "linalg_norm", [dict(A=M, **one) for one in norms]
    kinds = ("fro", "nuc", 1, -1, float("inf"), 2, -2)
    yield "linalg_matrix_norm", [dict(A=M, ord=each_kind) for each_kind in kinds] + [dict(A=CUBE, keepdim=True)]


def _composites() -> Iterator[tuple[str, list[Arguments]]]:
    factors = [dict(beta=beta, alpha=alpha) for beta, alpha in ((1, 1), (-1, 0.5), (0, 2))]
    yield "addmv", [dict(input=V(4), mat=M, vec=V(6), **one) for one in factors]
    yield "addr", [dict(input=M, vec1=V(4), vec2=V(6), **one) for one in factors]
    yield "addbmm", [dict(input=V(2, 4), batch1=V(3, 2, 3), batch2=V(3, 3, 4), **one) for one in factors]
    yield "addcdiv", [dict(input=M, tensor1=M, tensor2=POSITIVE, value=value) for value in (1, -0.5)]
    yield "lerp", [dict(input=M, end=M, weight=weight) for weight in (0.3, 2.0, M, fixed(6))]
    powers: list[Arguments] = [dict(p=1, dim=1), dict(p=3, dim=0, keepdim=True), dict(p="nuc"), dict(dim=(0, 1))]
    yield "norm_of", of(M, {}, *powers, dict(p=2, dtype=torch.float64))
    yield "dist", [two(M, M), two(M, fixed(4, 6), p=1)]
    yield "combinations", [dict(input=V(4)), dict(input=V(4), r=3), dict(input=V(3), with_replacement=True)]
    yield "pairwise_distance", [dict(x1=M, x2=M), dict(x1=M, x2=fixed(4, 6), p=1.0, keepdim=True)]
    yield "vdot", [two(V(5), V(5)), two(V(5), fixed(5))]
    yield (
        "bilinear",
        [
            dict(input1=M, input2=V(4, 3), weight=fixed(2, 6, 3)),
            dict(input1=M, input2=V(4, 3), weight=fixed(2, 6, 3), bias=fixed(2)),
        ],
    )
    yield "outer", [dict(input=V(3), vec2=V(4)), dict(input=V(3), vec2=fixed(4))]
    yield "linalg_vecdot", [dict(x=M, y=M), dict(x=M, y=fixed(4, 6), dim=0)]
    for name in ("median", "nanmedian"):
        yield name, of(M, dict(dim=1), dict(dim=0, keepdim=True))
    yield "constant_pad_nd", only(M, dict(pad=(1, 2)), dict(pad=(1, -1, 0, 1), value=-2.0))
    spreads: list[Arguments] = [dict(dim=1), dict(dim=0, keepdim=True), dict(dim=1, correction=0)]
    yield "std_mean", of(M, *spreads)


FUNCTIONS: dict[str, list[Arguments]] = {
    name: given
    for group in (_elementary, _of_two, _losses, _products_and_norms, _composites)
    for name, given in group()
}
