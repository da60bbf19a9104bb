"""Pixel flipping: curves by hand, brute force over all orders, and every kind of input."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import InputError
from fxlrp.evaluate import Flipping, merged, pixel_flipping
from helpers import LRP0


def linear(*weights: float) -> nn.Linear:
    """Two outputs: the first is constant, the second is the sum of the inputs with these weights."""
    layer = nn.Linear(len(weights), 2, bias=False).double().eval()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0] * len(weights), list(weights)]))
    return layer


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def flipped(model: Any, x: Tensor, relevance: Any, **options: Any) -> Flipping:
    return pixel_flipping(model, x, relevance, **{"target": 1, "replace": "zero", "baselines": (), **options})


def test_curves_of_a_linear_model_by_hand() -> None:
    # The contributions are 8, 3, 2 and -1, and add up to 12.
    model, x = linear(2.0, 1.0, -1.0, 0.5), row(4.0, 3.0, 1.0, 4.0)
    curves = flipped(model, x, fxlrp.compile(model, LRP0))["relevance"]
    assert curves.fractions.tolist() == [[0, 0.25, 0.5, 0.75, 1]]
    assert curves.morf.tolist() == [[12, 4, 1, -1, 0]]
    assert curves.lerf.tolist() == [[12, 13, 11, 8, 0]]
    # Trapezoids of width 1/4.
    assert curves.morf_area.tolist() == [(12 / 2 + 4 + 1 - 1 + 0) / 4]
    assert curves.lerf_area.tolist() == [(12 / 2 + 13 + 11 + 8 + 0) / 4]
    assert curves.srg.tolist() == [(32 - 4) / 4]


def test_the_relevance_of_an_additive_model_is_at_least_as_good_as_every_order() -> None:
    torch.manual_seed(1)
    model, x = linear(*torch.randn(5).tolist()), torch.randn(1, 5, dtype=torch.float64)
    own = flipped(model, x, fxlrp.compile(model, LRP0))["relevance"]
    orders = torch.tensor(list(itertools.permutations(range(5))), dtype=torch.float64)
    others = flipped(model, x.expand(len(orders), -1), orders)["relevance"]
    assert len(orders) == 120
    assert others.morf_area.min() >= own.morf_area.item() - 1e-12
    assert others.lerf_area.max() <= own.lerf_area.item() + 1e-12
    assert others.srg.max() == pytest.approx(own.srg.item(), abs=1e-12)
    assert (others.srg < own.srg - 1e-6).sum() >= 100


def test_a_replacement_other_than_zero_by_hand() -> None:
    model, x, relevance = linear(1.0, 1.0), row(4.0, 6.0), row(2.0, 1.0)
    expected = {"zero": [10, 6, 0], "mean": [10, 11, 10], 1.0: [10, 7, 2]}
    for replace, morf in expected.items():
        assert flipped(model, x, relevance, replace=replace)["relevance"].morf.tolist() == [morf]
    of_tensor = flipped(model, x, relevance, replace=torch.tensor([3.0, 5.0]))["relevance"]
    assert of_tensor.morf.tolist() == [[10, 9, 8]]
    of_function = flipped(model, x, relevance, replace=lambda values: -values)["relevance"]
    assert of_function.morf.tolist() == [[10, 2, -10]]


class Sum(nn.Module):
    """Outputs 0 and the sum of all inputs, of any shape."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1)
        return torch.stack([torch.zeros_like(total), total], 1)


def test_regions_of_an_image_are_squares_over_all_channels() -> None:
    x = torch.zeros(1, 2, 4, 5, dtype=torch.float64)
    x[0, :, :2, :2] = 1.0  # 8
    x[0, 0, 2:, 4] = 3.0  # 6, in a region at the border
    curves = flipped(Sum().eval(), x, x, region=2)["relevance"]
    assert curves.morf.tolist() == [[14, 6, 0, 0, 0, 0, 0]]
    assert curves.lerf.tolist() == [[14, 14, 14, 14, 14, 8, 0]]
    # The same relevance, summed over the channels before.
    for summed in (x.sum(1), x.sum(1, keepdim=True)):
        assert flipped(Sum().eval(), x, summed, region=2)["relevance"].morf.tolist() == curves.morf.tolist()
    # Rows of pixels.
    rows = flipped(Sum().eval(), x, x, region=(1, 5))["relevance"]
    assert sorted(rows.morf.tolist()[0], reverse=True) == [14, 10, 6, 3, 0]


def test_the_mean_is_that_of_the_channel_over_the_positions() -> None:
    x = torch.tensor([[[[1.0, 3.0]], [[10.0, 30.0]]]], dtype=torch.float64)
    curves = flipped(Sum().eval(), x, torch.tensor([[[1.0, 2.0]]]), replace="mean")["relevance"]
    assert curves.morf.tolist() == [[44, 44 - 33 + 22, 44]]


def test_blur() -> None:
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    x[0, 0, 4, 4] = 1.0
    blurred = fxlrp.evaluate.blur(1.0)(x)[0, 0]
    weights = torch.exp(-(torch.arange(-4.0, 5.0, dtype=torch.float64) ** 2) / 2) * (torch.arange(-4, 5).abs() <= 3)
    weights = weights / weights.sum()
    torch.testing.assert_close(blurred, weights.outer(weights))
    constant = torch.full((1, 3, 8, 8), 2.5)
    flat = flipped(Sum().eval(), constant, constant, replace="blur", region=4)["relevance"]
    torch.testing.assert_close(flat.morf, flat.morf[:, :1].expand(1, 5), rtol=1e-5, atol=0)
    with pytest.raises(InputError, match="sigma"):
        fxlrp.evaluate.blur(0.0)


def test_steps_round_to_whole_regions() -> None:
    x = torch.ones(1, 7, dtype=torch.float64)
    curves = flipped(linear(*[1.0] * 7), x, x, steps=3)["relevance"]
    # 7/3 and 14/3 of the regions are 2 and 5.
    assert curves.fractions.tolist() == [[0, 2 / 7, 5 / 7, 1]]
    assert curves.morf.tolist() == [[7, 5, 2, 0]]
    assert flipped(linear(*[1.0] * 7), x, x, steps=1)["relevance"].morf.tolist() == [[7, 0]]
    assert flipped(linear(*[1.0] * 7), x, x, steps=99)["relevance"].morf.shape == (1, 8)


def test_the_target_is_that_of_the_unchanged_input() -> None:
    model = nn.Linear(3, 3, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 0, 0], [0, 2, 0], [0, 0, 1]]))
    x = torch.ones(2, 3, dtype=torch.float64)
    by_default = flipped(model, x, x, target=None)["relevance"]
    assert by_default.morf[:, 0].tolist() == [3, 3] and by_default.morf[:, -1].tolist() == [0, 0]
    one_each = flipped(model, x, x, target=[1, 2])["relevance"]
    assert one_each.morf[:, 0].tolist() == [2, 1]
    contrast = flipped(model, x, x, target=fxlrp.targets.contrast(0, 1))["relevance"]
    assert contrast.morf[:, 0].tolist() == [1, 1]


def test_scores() -> None:
    model, x = linear(1.0, 2.0), row(1.0, 1.0)
    probability = flipped(model, x, x, score="probability")["relevance"]
    assert probability.morf[0, 0].item() == pytest.approx(torch.tensor(3.0).sigmoid().item())
    assert probability.morf[0, -1].item() == pytest.approx(0.5)
    squared = flipped(model, x, x, score=lambda output: output**2)["relevance"]
    assert squared.morf[0, 0].item() == 9


def test_equal_relevance_is_decided_by_the_seed() -> None:
    model, x = linear(*range(1, 9)), torch.ones(1, 8, dtype=torch.float64)
    tied = torch.zeros(1, 8)
    runs = [flipped(model, x, tied, seed=seed)["relevance"].morf.tolist() for seed in (0, 0, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2] != runs[3]
    # The least relevant first is the reversed order: what is flipped last there, is flipped first here.
    curves = flipped(model, x, tied)["relevance"]
    assert (curves.morf + curves.lerf.flip(1)).tolist() == [[36] * 9]


def test_the_seed_decides_the_random_baseline_and_torchs_own_generator_is_left_alone() -> None:
    model, x = linear(*range(1, 9)), torch.randn(3, 8, dtype=torch.float64)
    state = torch.get_rng_state()
    one, same, other = (flipped(model, x, x, baselines=["random"], seed=seed)["random"].morf for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_baselines_stand_beside() -> None:
    model, x = linear(2.0, -1.0, 0.5), torch.randn(4, 3, dtype=torch.float64)
    result = pixel_flipping(model, x, {"LRP": fxlrp.compile(model, LRP0)}, target=1, replace="zero")
    assert list(result.curves) == ["LRP", "random", "gradient x input"]
    # On a linear model LRP-0 is gradient times input.
    assert torch.equal(result["LRP"].morf, result["gradient x input"].morf)
    assert (result["LRP"].srg >= result["random"].srg - 1e-12).all()
    # All curves have the same ends.
    for curves in result.curves.values():
        assert torch.equal(curves.morf[:, [0, -1]], result["LRP"].lerf[:, [0, -1]])
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_a_batch_gives_what_its_samples_give_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)).double().eval()
    x = torch.rand(3, 2, 8, 8, dtype=torch.float64)
    relevance = fxlrp.compile(model, LRP0)(x, target=2)
    together = flipped(model, x, relevance, target=2, region=3, batch_size=5)
    alone = merged([flipped(model, x[i : i + 1], relevance[i : i + 1], target=2, region=3) for i in range(3)])
    for what in ("fractions", "morf", "lerf"):
        torch.testing.assert_close(
            getattr(together["relevance"], what), getattr(alone["relevance"], what), rtol=1e-12, atol=1e-12
        )
    assert together.regions.tolist() == alone.regions.tolist() == [9, 9, 9]


class Tokens(nn.Module):
    """Outputs 0 and the sum of a number for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 2)
        with torch.no_grad():
            self.embedding.weight.copy_(torch.stack([torch.zeros(10), torch.arange(10.0)], 1))

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        embedded = self.embedding(ids)
        result = (embedded if mask is None else embedded * mask.unsqueeze(-1)).sum(1)
        assert isinstance(result, Tensor)
        return result


def test_tokens_are_replaced_by_an_id() -> None:
    model, ids = Tokens().double().eval(), torch.tensor([[3, 7, 5], [9, 1, 4]])
    result = flipped(model, ids, fxlrp.compile(model, LRP0), replace=0, baselines=None)
    assert list(result.curves) == ["relevance", "random"]
    assert result["relevance"].morf.tolist() == [[15, 8, 3, 0], [14, 5, 1, 0]]
    assert result["relevance"].lerf.tolist() == [[15, 12, 7, 0], [14, 13, 9, 0]]
    # Relevance with the features of the embeddings behind.
    embedded = fxlrp.compile(model, LRP0)(ids, target=1, at="embedding")
    assert embedded.shape == (2, 3, 2)
    assert flipped(model, ids, embedded, replace=0)["relevance"].morf.tolist() == result["relevance"].morf.tolist()
    spans = flipped(model, ids, fxlrp.compile(model, LRP0), replace=2, region=2)["relevance"]
    assert spans.morf.tolist() == [[15, 9, 6], [14, 8, 6]]


def test_a_language_model_is_measured_at_its_largest_output_of_the_last_position() -> None:
    model = nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4, bias=False)).double().eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))  # type: ignore[operator]
        model[1].weight.copy_(torch.arange(16.0).reshape(4, 4))  # type: ignore[operator]
    # The logits at a position are a column of the weights, whose largest entry is the last one.
    curves = flipped(model, torch.tensor([[3, 1]]), fxlrp.compile(model, LRP0), target=None, replace=0)["relevance"]
    assert curves.morf.tolist() == [[13, 12, 12]]
    assert curves.lerf.tolist() == [[13, 13, 12]]


def test_positions_that_are_not_to_be_flipped_stay() -> None:
    model, ids = Tokens().double().eval(), torch.tensor([[3, 7, 5, 8], [9, 1, 0, 0]])
    where = torch.tensor([[False, True, True, True], [True, True, False, False]])
    mask = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.float64)
    explain = fxlrp.compile(model, LRP0, constants=["mask"], example_inputs={"ids": ids, "mask": mask})
    curves = flipped(model, ids, explain, replace=0, where=where, arguments={"mask": mask}, batch_size=1)
    relevance = curves["relevance"]
    assert curves.regions.tolist() == [3, 2]
    assert relevance.morf.tolist() == [[23, 15, 8, 3], [10, 1, 1, 0]]
    assert relevance.lerf.tolist() == [[23, 18, 11, 3], [10, 9, 9, 0]]
    # One third and two thirds of two regions are both one region.
    assert relevance.fractions.tolist() == [[0, 1 / 3, 2 / 3, 1], [0, 0.5, 0.5, 1]]


def test_embeddings_have_their_positions_first() -> None:
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]]], dtype=torch.float64)
    curves = flipped(Sum().eval(), x, x, dims=(1,))["relevance"]
    assert curves.morf.tolist() == [[11, 4, 1, 0]]
    assert flipped(Sum().eval(), x, x, dims=(-2,))["relevance"].morf.tolist() == curves.morf.tolist()


def test_signals_have_their_channels_first() -> None:
    x = torch.tensor([[[1.0, 2.0, 5.0], [3.0, 4.0, 1.0]]], dtype=torch.float64)
    assert flipped(Sum().eval(), x, x, region=2)["relevance"].morf.tolist() == [[16, 6, 0]]


def test_a_function_is_an_explanation() -> None:
    model, x = linear(1.0, 2.0), row(1.0, 1.0)
    good = flipped(model, x, {"own": lambda values: model.weight[1] * values})["own"]
    bad = flipped(model, x, {"own": lambda values: -model.weight[1] * values})["own"]
    assert good.srg.item() == 0.5 and bad.srg.item() == -0.5
    by_rank = flipped(model, x, {"own": lambda values: values * torch.tensor([2.0, 1.0])})["own"]
    assert by_rank.morf.tolist() == [[3, 2, 0]]


def test_relevance_at_half_precision() -> None:
    model, x = linear(1.0, 2.0), row(1.0, 1.0)
    assert flipped(model, x, torch.tensor([[1.0, 2.0]]).half())["relevance"].morf.tolist() == [[3, 1, 0]]


def test_the_model_may_change_its_input_in_place() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), Sum()).eval()
    x = torch.tensor([[-1.0, 2.0, 3.0]], dtype=torch.float64)
    result = pixel_flipping(model, x, x.clone(), target=1, replace="zero")
    assert x.tolist() == [[-1, 2, 3]]
    assert result["gradient x input"].morf.tolist() == [[5, 2, 0, 0]]


X = torch.rand(2, 3, 4, 4)
IDS = torch.tensor([[1, 2, 3]])
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an explainer as the model": (dict(model=fxlrp.compile(Sum().eval())), "model itself"),
    "training mode": (dict(model=Sum().train()), "training mode"),
    "no positions": (dict(x=torch.rand(3)), "no positions"),
    "truth values": (dict(x=X > 0.5), "real numbers"),
    "no samples": (dict(x=X[:0]), "at least one sample"),
    "several targets": (dict(target=fxlrp.targets.each([0, 1])), "one target"),
    "a target out of range": (dict(target=2), "out of range"),
    "no steps": (dict(steps=0), "steps must be"),
    "a batch of none": (dict(batch_size=True), "batch_size must be"),
    "regions of width 0": (dict(region=0), "region=0"),
    "a width that is no integer": (dict(region=1.5), "region=1.5"),
    "one width for two dimensions": (dict(region=(2,)), "one for each of 2 dimensions"),
    "the batch as positions": (dict(dims=(0, 2)), "different dimensions"),
    "a dimension twice": (dict(dims=(2, -2)), "different dimensions"),
    "a dimension that is no integer": (dict(dims=(True,)), "different dimensions"),
    "a single dimension": (dict(dims=2), "dims=2 must contain different dimensions"),
    "an unknown replacement": (dict(replace="grey"), "'mean', 'zero', 'blur'"),
    "a replacement that is no number": (dict(replace=None), "not None"),
    "a replacement that does not fit": (dict(replace=torch.rand(5)), "does not fit an input"),
    "a function without a tensor": (dict(replace=lambda x: 3), "must return a tensor, not a int"),
    "the mean of tokens": (dict(x=IDS, relevance=IDS, model=Tokens().eval()), "mask_token_id"),
    "half a token": (dict(x=IDS, relevance=IDS, model=Tokens().eval(), replace=0.5), "must be a token"),
    "the gradient of tokens": (
        dict(x=IDS, relevance=IDS, model=Tokens().eval(), replace=0, baselines=["gradient x input"]),
        "tokens have no gradient",
    ),
    "a blur of tokens": (
        dict(x=IDS, relevance=IDS, model=Tokens().eval(), replace=fxlrp.evaluate.blur(2.0, (1,))),
        "needs real numbers, not torch.int64",
    ),
    "a blur along other dimensions": (dict(replace=fxlrp.evaluate.blur(2.0, (4,))), r"dims=\(4,\)"),
    "an unknown score": (dict(score="logit"), "'output', 'probability'"),
    "a score of another shape": (dict(score=lambda output: output[:, :1]), "shape of the output"),
    "an unknown baseline": (dict(baselines=["occlusion"]), "baselines are"),
    "the name of a baseline": (dict(relevance={"random": X}), "another name"),
    "a relevance that does not fit": (dict(relevance=X[..., :3]), r"\(2, 3, 4, 3\), which does not fit"),
    "a relevance of one sample": (dict(relevance=X[:1]), "does not fit"),
    "a relevance with NaN": (dict(relevance=X / 0 * 0), "NaN or infinity"),
    "a relevance that is not a tensor": (dict(relevance="LRP"), "is a str"),
    "positions that are no mask": (dict(where=X[:, 0]), "boolean tensor of shape"),
    "no position at all": (dict(where=torch.zeros(2, 4, 4, dtype=torch.bool)), "leaves no position"),
    "a model with several results": (dict(model=lambda x: (x, x)), "not a tuple"),
    "a model that loses samples": (dict(model=lambda x: x[:1].flatten(1)), "not one of shape"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_errors(case: str) -> None:
    changed, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        pixel_flipping(**{"model": Sum().eval(), "x": X, "relevance": X, "target": 1, **changed})


def test_an_explainer_of_several_inputs_must_choose() -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return torch.stack([a.sum(1), (a * b).sum(1)], 1)

    a, b = torch.rand(2, 3), torch.rand(2, 3)
    model = Two().eval()
    with pytest.raises(InputError, match="relevance of a, b"):
        flipped(model, a, fxlrp.compile(model), arguments={"b": b})
    assert flipped(model, a, fxlrp.compile(model, at="a"), arguments={"b": b})["relevance"].morf.shape == (2, 4)


@pytest.mark.cuda
def test_the_device_does_not_matter() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)).double().eval()
    x = torch.rand(3, 2, 8, 8, dtype=torch.float64)
    relevance = fxlrp.compile(model, LRP0)(x, target=2)
    options = dict(target=2, region=3, replace="blur", baselines=None, where=torch.rand(3, 8, 8) > 0.2)
    here = flipped(model, x, relevance, **options)
    there = flipped(model.cuda(), x.cuda(), relevance, **options)
    for name, curves in here.curves.items():
        torch.testing.assert_close(there[name].srg, curves.srg, rtol=1e-9, atol=1e-9)


def test_the_gradient_in_inference_mode() -> None:
    model, x = linear(2.0, 1.0, -1.0), row(4.0, 3.0, 1.0)
    expected = flipped(model, x, x, baselines=None)["gradient x input"]
    with torch.inference_mode():
        found = flipped(model, x.clone(), x, baselines=None)["gradient x input"]
    assert found.morf.tolist() == expected.morf.tolist() == [[10, 2, -1, 0]]


@pytest.mark.parametrize("sigma", [0, -1.0, float("nan"), float("inf"), "2", True, None], ids=repr)
def test_widths_of_a_blur_that_are_none(sigma: Any) -> None:
    with pytest.raises(InputError, match="sigma must be a positive number"):
        fxlrp.evaluate.blur(sigma)
